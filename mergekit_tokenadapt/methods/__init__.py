"""Ways to make rows for new tokens: one file each, found through entry points."""

from mergekit_tokenadapt.transfer.method import Method, find_method

__all__ = ["Method", "find_method"]
