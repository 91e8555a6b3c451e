"""Everything that touches mergekit: the recipe field, the planner and the tasks.

Importing this package imports neither mergekit nor torch: pydantic does it in every program.
"""


def activate() -> None:
    """Teach this process's mergekit the ``tokenizer.adapt`` block. Does nothing the second time.

    Raises:
        TokenAdaptError: the installed mergekit is not one that this plugin knows.
    """
    from mergekit_tokenadapt.plugin.activation import activate_once

    activate_once()


__all__ = ["activate"]
