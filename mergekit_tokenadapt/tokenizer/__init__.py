"""Tokenizers: their files, the bytes of each token, and how they segment text. Nothing here knows a model."""
