"""Measure the quality of tokenizers without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.lost_text import lost_text, sentence
from mergekit_tokenadapt.evaluation.mixture_inference import infer_mixture
from mergekit_tokenadapt.evaluation.options import QualityOptions
from mergekit_tokenadapt.evaluation.tokenizer_quality.words import (
    known_languages,
    read_units,
    share_in,
    words_of,
)
from mergekit_tokenadapt.texts import LANGUAGES, TextSet, parallel_texts
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.habits import habits
from mergekit_tokenadapt.tokenizer.scripts import make_up
from mergekit_tokenadapt.tokenizer.text_measures import TokenizedDocument, measure, tokenize

__all__ = ["QualityOptions", "describe_tokenizers"]


def describe_tokenizers(
    tokenizers: Sequence[TokenizerFiles],
    texts: Sequence[TextSet],
    options: QualityOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure tokenizers on texts.

    Args:
        tokenizers: the tokenizers.
        texts: texts with different names.
        options: see `QualityOptions`.
        progress: is called with the name of each tokenizer.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: an option names something that does not exist.
    """
    options = options or QualityOptions()
    word_languages, word_note = _word_languages(options)
    units = _units(word_languages, options.morphemes)
    return {
        "command": "tokenizer",
        "reference": options.reference,
        "texts": [text.describe() for text in texts],
        "parallel_texts": [text.describe() for text in parallel_texts().values()],
        "word_note": word_note,
        "mixture_texts": [text.describe() for text in options.mixture],
        "tokenizers": [_describe(tokenizer, texts, options, units, progress) for tokenizer in tokenizers],
    }


def _word_languages(options: QualityOptions) -> tuple[Sequence[str], str | None]:
    """Return the languages whose words to count, and a note if there are none.

    If the user did not ask for words, wordfreq need not be installed.
    """
    if options.words:
        return options.words, None
    try:
        known = known_languages()
    except TokenAdaptError as error:
        return (), error.message
    return [code for code in LANGUAGES if code in known], None


def _units(words: Sequence[str], units: Mapping[str, Path]) -> dict[str, dict[str, frozenset[str]]]:
    """Return for ``words`` and for ``units``: language -> set of words, or of the user's units."""
    return {
        "words": {language: words_of(language) for language in words},
        "units": {language: read_units(file) for language, file in units.items()},
    }


def _describe(
    tokenizer: TokenizerFiles,
    texts: Sequence[TextSet],
    options: QualityOptions,
    units: Mapping[str, Mapping[str, frozenset[str]]],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    progress(tokenizer.name)
    vocabulary = tokenizer.vocabulary
    documents = {text.name: tokenize(tokenizer, text.documents) for text in texts}
    lost = {name: _lost(tokenizer, tokenized) for name, tokenized in documents.items()}
    used = np.unique(np.concatenate([d.ids for tokenized in documents.values() for d in tokenized]))
    parallel = {code: tokenize(tokenizer, text.documents) for code, text in parallel_texts().items()}
    lengths = {code: sum(len(d.ids) for d in tokenized) for code, tokenized in parallel.items()}
    distinct = {
        code: [vocabulary.by_id[int(i)] for i in np.unique(np.concatenate([d.ids for d in tokenized]))]
        for code, tokenized in parallel.items()
    }
    return {
        "name": tokenizer.name,
        "make_up": make_up(vocabulary),
        "habits": habits(tokenizer),
        "texts": {
            name: {**measure(tokenized, len(vocabulary)), "loses_text": lost[name] is not None, "lost_text": lost[name]}
            for name, tokenized in documents.items()
        },
        "lost_text": sentence(lost),
        "vocabulary_use": len(used) / len(vocabulary),
        "parity": {code: length / lengths[options.reference] for code, length in lengths.items()},
        "word_share": {code: share_in(distinct[code], words) for code, words in units["words"].items()},
        "unit_share": {code: share_in(distinct[code], own) for code, own in units["units"].items()},
        "mixture": infer_mixture(tokenizer, options.mixture, options.merges) if options.mixture else None,
    }


def _lost(tokenizer: TokenizerFiles, documents: Sequence[TokenizedDocument]) -> dict[str, Any] | None:
    found = lost_text(tokenizer, [d.text for d in documents], [d.ids.tolist() for d in documents])
    return found.describe() if found else None
