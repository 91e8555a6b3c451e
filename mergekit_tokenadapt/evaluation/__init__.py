"""Measure models in units that can be compared across tokenizers."""

from mergekit_tokenadapt.evaluation.bits_per_byte import bits_per_byte

__all__ = ["bits_per_byte"]
