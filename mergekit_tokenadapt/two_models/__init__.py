"""One vocabulary for two models: a draft model or a teacher gets the ids and the rows of the other."""

from mergekit_tokenadapt.two_models.onto import put_onto

__all__ = ["put_onto"]
