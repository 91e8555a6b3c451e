"""Auxiliary spaces: embeddings of token texts in which similar texts are near each other. One module per space."""

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace, check_auxiliary_name, find_auxiliary

__all__ = ["AuxiliarySpace", "check_auxiliary_name", "find_auxiliary"]
