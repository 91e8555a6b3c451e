"""Texts to score: a small built-in set that works offline, files, folders, jsonl and hub datasets."""

from mergekit_tokenadapt.evaluation.texts.builtin import BUILTIN, LANGUAGES, builtin_text, parallel_texts
from mergekit_tokenadapt.evaluation.texts.passages import cut_passages
from mergekit_tokenadapt.evaluation.texts.sources import read_text
from mergekit_tokenadapt.evaluation.texts.text_set import TextSet

__all__ = ["BUILTIN", "LANGUAGES", "TextSet", "builtin_text", "cut_passages", "parallel_texts", "read_text"]
