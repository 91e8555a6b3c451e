"""How stock mergekit commands find the plugin, though mergekit loads no plugins itself.

pydantic loads the objects under the entry-point group ``pydantic`` when the first model class is
built, and asks each one for every class whether it wants to be told of validations. Ours wants that
for two of mergekit's classes only:

- every mergekit command builds `MergeOptions` before it reads the recipe: then we activate;
- a program that reads a recipe first would have ``adapt`` dropped without a word: then we stop it.

This module is imported by every program that uses pydantic, so it imports nothing itself.
"""


class _ActivateOnEnter:
    """Told of every `MergeOptions`."""

    def on_enter(self, *_args: object, **_kwargs: object) -> None:
        from mergekit_tokenadapt.plugin import activate

        activate()


class _RefuseUnlessActive:
    """Told of every `MergeConfiguration` that the class as mergekit defines it validates.

    Activation rebuilds the class, and with that this handler learns of the adapted one only.
    """

    def on_enter(self, recipe: object, *_args: object, **_kwargs: object) -> None:
        tokenizer = recipe.get("tokenizer") if isinstance(recipe, dict) else None
        if not isinstance(tokenizer, dict) or "adapt" not in tokenizer:
            return
        from mergekit_tokenadapt.plugin.activation import is_active

        if not is_active():
            from mergekit_tokenadapt.errors import TokenAdaptError

            raise TokenAdaptError(
                "this recipe has a tokenizer.adapt block, but mergekit-tokenadapt is not active yet: "
                "call mergekit_tokenadapt.activate() before reading the recipe"
            )


_HANDLERS = {
    ("mergekit.options", "MergeOptions"): _ActivateOnEnter(),
    ("mergekit.config", "MergeConfiguration"): _RefuseUnlessActive(),
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
