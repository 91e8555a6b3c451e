"""Two models on one vocabulary: one of them put onto the ids and the rows of the other."""

from mergekit_tokenadapt.one_vocabulary.onto import put_onto
from mergekit_tokenadapt.one_vocabulary.report import vocabulary_report

__all__ = ["put_onto", "vocabulary_report"]
