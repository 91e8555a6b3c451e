"""Segment the same text into other tokens: split tokens at random for training, or merge them for a shorter prompt."""
