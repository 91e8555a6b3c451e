"""Tokenizers: their files, the bytes of each token, and the segmentation of text. Nothing here depends on a model."""
