"""Texts to score or to learn from: built-in texts that work offline, files, folders, jsonl and hub datasets."""

from mergekit_tokenadapt.texts.builtin import BUILTIN, LANGUAGES, builtin_text, parallel_texts
from mergekit_tokenadapt.texts.passages import halved_to_fit, split_passages
from mergekit_tokenadapt.texts.sources import TextPlace, parse_text, read_text
from mergekit_tokenadapt.texts.text_set import TextSet, check_names

__all__ = [
    "BUILTIN",
    "LANGUAGES",
    "TextPlace",
    "TextSet",
    "builtin_text",
    "check_names",
    "halved_to_fit",
    "parallel_texts",
    "parse_text",
    "read_text",
    "split_passages",
]
