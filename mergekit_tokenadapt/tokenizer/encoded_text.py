"""Byte positions of tokens in an encoded text, and the start token from which the first token is predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Encoding

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


def start_token(vocabulary: Vocabulary) -> int | None:
    """Return the id from which the first token of a text is predicted: bos, else eos, else None.

    lm-evaluation-harness chooses the same token.
    """
    return vocabulary.roles.get("bos", vocabulary.roles.get("eos"))


def first_token(vocabulary: Vocabulary) -> int:
    """Return `start_token`, or the vocabulary's first token where there is none, for text that needs one before it."""
    start = start_token(vocabulary)
    return start if start is not None else vocabulary.tokens[0].id


def leading_tokens(tokenizer: TokenizerFiles) -> tuple[int, ...]:
    """Return the ids of the special tokens that the tokenizer puts before each text, such as Gemma's bos."""
    return _tokens_around(tokenizer)[0]


def trailing_tokens(tokenizer: TokenizerFiles) -> tuple[int, ...]:
    """Return the ids of the special tokens that the tokenizer puts after each text, such as T5's eos."""
    return _tokens_around(tokenizer)[1]


def _tokens_around(tokenizer: TokenizerFiles) -> tuple[tuple[int, ...], tuple[int, ...]]:
    encoder = tokenizer.fast_tokenizer()
    if not encoder.num_special_tokens_to_add(is_pair=False):
        return (), ()  # without reading a text: not every tokenizer can
    encoding = encoder.encode("a")
    mask = encoding.special_tokens_mask
    if 0 not in mask:
        return tuple(encoding.ids), ()
    return tuple(encoding.ids[: mask.index(0)]), tuple(encoding.ids[len(mask) - mask[::-1].index(0) :])


def check_some_tokens(tokenizer: TokenizerFiles, encodings: Sequence[Encoding]) -> None:
    """Refuse texts that have no token at all, for instance white space that the tokenizer drops.

    Raises:
        TokenAdaptError: no document has a token.
    """
    if not any(encoding.ids for encoding in encodings):
        raise TokenAdaptError(f"{tokenizer.name} gives no token for any of the {len(encodings)} documents of a text")


def byte_ends(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], vocabulary: Vocabulary) -> np.ndarray:
    """Return the end of each token in the text's UTF-8, int64 [tokens], in bytes.

    Ends never decrease, and the last one is the length of the text. If the bytes of the tokens add up to the text, with
    or without a dummy space in front, they give exact ends. Otherwise, for instance after a normalizer, the tokenizer's
    character offsets give the ends; all tokens of one character then end where the character ends.

    Args:
        text: the text.
        ids: its token ids.
        offsets: (start, end) of each token in characters, from the `tokenizers` library.
        vocabulary: the tokenizer's vocabulary.
    """
    content = text.encode("utf-8")
    pieces = [vocabulary.by_id[i].bytes for i in ids]
    joined = b"".join(pieces)
    if joined in (content, b" " + content):
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return np.maximum(ends - (len(joined) - len(content)), 0)  # without the dummy space
    widths = np.array([len(character.encode("utf-8")) for character in text], dtype=np.int64)
    places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
    ends = np.maximum.accumulate(places[[end for _, end in offsets]]) if len(ids) else np.zeros(0, dtype=np.int64)
    ends[-1:] = len(content)
    return ends
