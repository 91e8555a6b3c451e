"""Give a language model another tokenizer without training: as a mergekit recipe, from the shell, or from Python.

    import mergekit_tokenadapt as ta

    plan = ta.make_plan("./model", "./tokenizer", method="hybrid")
    ta.transplant("./model", "./tokenizer", "./out", untie=True)

Where the package is installed, the stock mergekit commands understand a ``tokenizer.adapt`` block. A program that
uses mergekit as a library calls `activate` once, before it reads a recipe.

pydantic imports this module in every program that uses it. So nothing is imported here: each name is looked up on
first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergekit_tokenadapt.auxiliary import AuxiliarySpace
    from mergekit_tokenadapt.errors import TokenAdaptError
    from mergekit_tokenadapt.front_door.adapt import adapt
    from mergekit_tokenadapt.front_door.compare import Comparison, compare
    from mergekit_tokenadapt.front_door.explanation import RowExplanation
    from mergekit_tokenadapt.front_door.heal import Healed, heal
    from mergekit_tokenadapt.front_door.loading import load_tokenizer
    from mergekit_tokenadapt.front_door.plan import Plan, make_plan
    from mergekit_tokenadapt.front_door.transplant import transplant
    from mergekit_tokenadapt.methods import Method
    from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
    from mergekit_tokenadapt.plugin import activate
    from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
    from mergekit_tokenadapt.transfer.transfer import Transfer

    __version__: str

__all__ = [
    "AdaptConfig",
    "AuxiliarySpace",
    "Comparison",
    "Healed",
    "Method",
    "Plan",
    "RowExplanation",
    "SparseRows",
    "TokenAdaptError",
    "TokenizerFiles",
    "Transfer",
    "__version__",
    "activate",
    "adapt",
    "compare",
    "heal",
    "load_tokenizer",
    "make_plan",
    "transplant",
]

_MODULES = {
    "AdaptConfig": "transfer.adapt_config",
    "AuxiliarySpace": "auxiliary",
    "Comparison": "front_door.compare",
    "Healed": "front_door.heal",
    "Method": "transfer.method",
    "SparseRows": "numerics.sparse_rows",
    "Plan": "front_door.plan",
    "RowExplanation": "front_door.explanation",
    "TokenAdaptError": "errors",
    "TokenizerFiles": "tokenizer.files",
    "Transfer": "transfer.transfer",
    "activate": "plugin",
    "adapt": "front_door.adapt",
    "compare": "front_door.compare",
    "heal": "front_door.heal",
    "load_tokenizer": "front_door.loading",
    "make_plan": "front_door.plan",
    "transplant": "front_door.transplant",
}
"""The module that each name comes from."""


def __getattr__(name: str) -> Any:
    """Import a name of the front door when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mergekit-tokenadapt")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
