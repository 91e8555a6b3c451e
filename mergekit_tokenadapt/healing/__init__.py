"""A little training after the swap: to predict in new tokens what the base model predicts in its own."""

from mergekit_tokenadapt.healing.options import HealOptions

__all__ = ["HealOptions"]
