"""Methods that compute the rows of new tokens. Each is one file, found through an entry point."""

from mergekit_tokenadapt.transfer.method import Method, find_method

__all__ = ["Method", "find_method"]
