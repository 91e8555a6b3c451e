"""How stock mergekit commands find the plugin, though mergekit loads no plugins itself.

pydantic loads the objects under the entry-point group ``pydantic`` when the first model class is
built, and asks each one for every class whether it wants to be told of validations. Ours wants that
for a few of mergekit's classes only:

- every mergekit command builds `MergeOptions` before it reads the recipe: then we activate;
- a program that reads a recipe first would have ``adapt`` dropped without a word: then we stop it;
- a recipe whose block has a wrong name or place would have it dropped in every program: we stop that, too;
- other kinds of recipes (of mixtures of experts, of evolution) have no tokenizer block at all.

This module is imported by every program that uses pydantic, so it imports nothing itself.
"""


class _ActivateOnEnter:
    """Told of every `MergeOptions`."""

    def on_enter(self, *_args: object, **_kwargs: object) -> None:
        from mergekit_tokenadapt.plugin import activate

        activate()


class _CheckRecipe:
    """Told of every `MergeConfiguration`, as mergekit defines the class and as activation rebuilds it."""

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
        """In a command, print what we had to say in one line; a program gets pydantic's error, as it expects."""
        import click

        from mergekit_tokenadapt.errors import TokenAdaptError

        if click.get_current_context(silent=True) is None:
            return
        for problem in error.errors():  # type: ignore[attr-defined]
            ours = problem.get("ctx", {}).get("error")
            if isinstance(ours, TokenAdaptError):
                raise ours from None


class _RefuseBlock:
    """Told of every recipe of a command that cannot adapt."""

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


class _Hook:
    """The plugin object, in the form that pydantic's plugin protocol asks for."""

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
