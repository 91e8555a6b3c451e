"""Where each token ends in the bytes of a text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tiny_models
from tokenizers import normalizers

from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends


def test_byte_ends_follow_the_tokens_bytes() -> None:
    tokenizer = tiny_models.byte_level_tokenizer(["the river"], 300)
    text = "the é🙂"
    encoding = tokenizer.encode(text)
    vocabulary = vocabulary_of(tokenizer)
    ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary)
    joined = text.encode()
    starts = [0, *ends[:-1].tolist()]
    pieces = [joined[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
    assert pieces == [vocabulary.by_id[i].bytes for i in encoding.ids]


def test_byte_ends_with_a_normalizer_follow_the_original_text() -> None:
    tokenizer = tiny_models.byte_level_tokenizer(["the river"], 300)
    tokenizer.normalizer = normalizers.NFKC()
    text = "ﬁve Ⅻ the"  # 2 and 1 characters of three bytes each, which become "fi" and "XII"
    encoding = tokenizer.encode(text)
    ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary_of(tokenizer))
    assert ends[-1] == len(text.encode())
    assert (np.diff(ends) >= 0).all()
    assert byte_ends("", [], [], vocabulary_of(tokenizer)).tolist() == []


def vocabulary_of(tokenizer: Any) -> Any:
    from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

    return Vocabulary.from_definition(json.loads(tokenizer.to_str()))
