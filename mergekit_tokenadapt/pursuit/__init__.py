"""Sparse combinations of known rows: orthogonal matching pursuit, made practical for whole vocabularies."""

from mergekit_tokenadapt.pursuit.omp import matching_pursuit

__all__ = ["matching_pursuit"]
