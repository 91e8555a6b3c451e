"""Texts, streams of tokens and encoding that the tests of supertokens share."""

import json

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mergekit_tokenadapt.supertokens.counting import (
    FIRST_CHARACTER,
)
from mergekit_tokenadapt.supertokens.options import Limits

QUIET = Limits(quiet=True)


def plain(definition):
    return Tokenizer.from_str(json.dumps(definition))


def new_ids(definition, text):
    return plain(definition).encode(text, add_special_tokens=False).ids


ANY_TEXT = st.text(max_size=60)


WORDS = st.lists(
    st.sampled_from([
        "the", " the", " end", " of", "of", "river", ".", " ", "  ", "\n", ",", ", and", "2024", " 7", "'s", "'t",
        "'sun", "(", ")", "self", "_", "é", " été", "река", " реки", "終わり", "。", "के", " के", "ी", "\t", "\r\n",
        "\xa0", "...", "?", '"', "<end>", "<|im_end|>", "<s>", "▁", "▁the", "🍞", "\u0301", "ſ", "don't", "X1", "--",
        "\u3000",
    ]),
    max_size=14,
).map("".join)  # fmt: skip


TEXT = ANY_TEXT | WORDS


def streams(*parts):
    for ids, starts in parts:
        yield np.array(ids, dtype=np.int32), np.array(starts, dtype=bool)


RUNS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=30)


def as_stream(runs):
    ids = [i for run in runs for i in run]
    starts = [n == 0 for run in runs for n in range(len(run))]
    return streams((ids, starts))


def runs_as_text(runs):
    return ["".join(chr(FIRST_CHARACTER + i) for i in run) for run in runs]
