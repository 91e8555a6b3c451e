"""A text in tokens: where each token ends in the text's bytes, and the token that the first one is predicted from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Encoding

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


def start_token(vocabulary: Vocabulary) -> int | None:
    """The token that the first one is predicted from: bos, or else eos, as lm-evaluation-harness has it."""
    return vocabulary.roles.get("bos", vocabulary.roles.get("eos"))


def check_some_tokens(tokenizer: TokenizerFiles, encodings: Sequence[Encoding]) -> None:
    """Refuse texts of which nothing is left, for instance white space that the tokenizer drops.

    Raises:
        TokenAdaptError: no document has a token.
    """
    if not any(encoding.ids for encoding in encodings):
        raise TokenAdaptError(f"{tokenizer.name} makes no token of any of {len(encodings)} documents of a text")


def byte_ends(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], vocabulary: Vocabulary) -> np.ndarray:
    """Where each token ends in the text's UTF-8, int64 [tokens], not decreasing, the last at its end.

    The tokens' own bytes say so exactly where they add up to the text (with or without a dummy space
    in front); otherwise (normalizers) the tokenizer's character offsets do, and tokens that share a
    character end with it.
    """
    content = text.encode("utf-8")
    pieces = [vocabulary.by_id[i].bytes for i in ids]
    joined = b"".join(pieces)
    if joined in (content, b" " + content):
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return np.maximum(ends - (len(joined) - len(content)), 0)
    widths = np.array([len(character.encode("utf-8")) for character in text], dtype=np.int64)
    places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
    ends = np.maximum.accumulate(places[[end for _, end in offsets]]) if len(ids) else np.zeros(0, dtype=np.int64)
    ends[-1:] = len(content)
    return ends
