"""Let stock mergekit commands find this plugin, although mergekit has no plugin mechanism.

pydantic loads the objects of the entry-point group ``pydantic`` when the first model class is built. It asks each
object, for every class, whether it wants to be called for validations. Our object wants this for a few of mergekit's
classes only:

- Every mergekit command builds `MergeOptions` before it reads the recipe. At that moment we activate the plugin.
- mergekit would silently ignore ``adapt`` in a program that reads a recipe without activation. We raise an error.
- mergekit would silently ignore a block with a wrong name or in a wrong place in every program. We raise an error.
- Other kinds of recipes (mixtures of experts, evolution) have no tokenizer block at all. We raise an error if there is
  an ``adapt`` block.

Every program that uses pydantic imports this module, so it imports nothing at its top.
"""


class _ActivateOnEnter:
    """Called before each validation of `MergeOptions`."""

    def on_enter(self, *_args: object, **_kwargs: object) -> None:
        from mergekit_tokenadapt.plugin import activate

        activate()


class _CheckRecipe:
    """Called before each validation of `MergeConfiguration`, both the original class and the one that activation
    rebuilds.
    """

    def on_enter(self, recipe: object, *_args: object, **_kwargs: object) -> None:
        from mergekit_tokenadapt.plugin.activation import is_active
        from mergekit_tokenadapt.plugin.misplaced import check_recipe

        check_recipe(recipe)
        tokenizer = recipe.get("tokenizer") if isinstance(recipe, dict) else None
        if isinstance(tokenizer, dict) and "adapt" in tokenizer and not is_active():
            from mergekit_tokenadapt.errors import TokenAdaptError

            raise TokenAdaptError(
                "this recipe has a tokenizer.adapt block, but mergekit-tokenadapt is not active yet: "
                "call mergekit_tokenadapt.activate() before reading the recipe"
            )

    def on_error(self, error: object) -> None:
        """In a command, raise our own error in one line. A program gets pydantic's error, as it expects."""
        import click

        from mergekit_tokenadapt.errors import TokenAdaptError

        if click.get_current_context(silent=True) is None:
            return
        for problem in error.errors():  # type: ignore[attr-defined]
            ours = problem.get("ctx", {}).get("error")
            if isinstance(ours, TokenAdaptError):
                raise ours from None


class _RefuseBlock:
    """Called before each validation of a recipe for a command that cannot adapt."""

    def __init__(self, command: str) -> None:
        self._command = command

    def on_enter(self, recipe: object, *_args: object, **_kwargs: object) -> None:
        from mergekit_tokenadapt.plugin.misplaced import check_no_block

        check_no_block(recipe, self._command)


_HANDLERS = {
    ("mergekit.options", "MergeOptions"): _ActivateOnEnter(),
    ("mergekit.config", "MergeConfiguration"): _CheckRecipe(),
    ("mergekit.moe.config", "MoEMergeConfig"): _RefuseBlock("mergekit-moe"),
    ("mergekit.evo.config", "EvolMergeConfiguration"): _RefuseBlock("mergekit-evolve"),
    ("mergekit.scripts.merge_raw_pytorch", "RawPyTorchMergeConfig"): _RefuseBlock("mergekit-pytorch"),
    ("mergekit.scripts.bakllama", "BakllamaConfig"): _RefuseBlock("bakllama"),
}
"""(module, class) of mergekit -> the handler that pydantic calls when it validates this class."""


class _Hook:
    """The plugin object, with the method that pydantic's plugin protocol requires."""

    def new_schema_validator(
        self,
        _schema: object,
        _schema_type: object,
        schema_type_path: tuple[str, str],
        *_rest: object,
    ) -> tuple[object, None, None]:
        module, name = schema_type_path
        return _HANDLERS.get((module, name)), None, None


hook = _Hook()
"""The object that the entry point names."""
