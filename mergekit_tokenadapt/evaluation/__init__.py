"""Measuring models in units that compare across tokenizers."""

from mergekit_tokenadapt.evaluation.bits_per_byte import bits_per_byte

__all__ = ["bits_per_byte"]
