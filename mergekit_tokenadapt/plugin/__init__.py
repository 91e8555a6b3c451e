"""The mergekit plugin: the recipe block ``tokenizer.adapt``, the planner and its tasks.

Importing this package imports neither mergekit nor torch, because pydantic imports it in every program that uses
pydantic.
"""


def activate() -> None:
    """Let mergekit in this process understand the ``tokenizer.adapt`` block. A second call does nothing.

    Raises:
        TokenAdaptError: the plugin does not work with the installed version of mergekit.
    """
    from mergekit_tokenadapt.plugin.activation import activate_once

    activate_once()


__all__ = ["activate"]
