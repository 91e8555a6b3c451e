"""Spaces in which similar texts are close: one file each, found through entry points."""

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace, check_auxiliary_name, find_auxiliary

__all__ = ["AuxiliarySpace", "check_auxiliary_name", "find_auxiliary"]
