"""The nearest token of another vocabulary by edit distance: MinED (FuseLLM, arXiv 2401.10491, 3.3).

The distance is Levenshtein's over bytes, the fewest insertions, deletions and substitutions. Ties go
to the token of nearest length, then to the shorter one, then to the lowest id. Special tokens
stand for no text: they match by string and role, as in a transplant, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import match

BLOCK = 512
"""Tokens compared with all others at a time."""


@dataclass(frozen=True, eq=False)
class NearestTokens:
    """For each id of one vocabulary, the nearest token of another."""

    ids: np.ndarray
    """int32 [highest id + 1]; -1 for ids without a token, and special tokens without a counterpart."""
    distances: np.ndarray
    """int16, the same length: 0 for the same bytes or a special counterpart, -1 where there is no nearest token."""


def nearest_tokens(source: Vocabulary, target: Vocabulary, *, quiet: bool = True) -> NearestTokens:
    """The nearest token of `target` for each token of `source`, exact.

    Tokens with the same bytes are found by looking them up. The others are compared length by length,
    nearest lengths first: the distance of two strings is at least the difference of their lengths, so a
    token is done when no length is left that could hold a nearer one.

    Raises:
        TokenAdaptError: rapidfuzz is not installed or does not work.
    """
    ids = np.full(source.num_ids, -1, dtype=np.int32)
    distances = np.full(source.num_ids, -1, dtype=np.int16)
    same = match(target, source).sources[: source.num_ids]
    has_text = np.array([t.kind is not TokenKind.SPECIAL for t in source])
    own_ids = source.ids()
    found = same[own_ids] >= 0
    ids[own_ids[found]], distances[own_ids[found]] = same[own_ids[found]], 0
    missing = [t for t, done, text in zip(source, found, has_text, strict=True) if text and not done]
    candidates = [t for t in target if t.kind is not TokenKind.SPECIAL]
    if missing and candidates:
        nearest, apart = _search(missing, candidates, quiet)
        places = [t.id for t in missing]
        ids[places], distances[places] = nearest, apart
    return NearestTokens(ids, distances)


def _search(missing: list[Token], candidates: list[Token], quiet: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids and distances of the nearest candidates, int64 [missing] each."""
    by_length: dict[int, list[Token]] = {}
    for token in sorted(candidates, key=lambda t: t.id):
        by_length.setdefault(len(token.bytes), []).append(token)
    # Bytes as Latin-1 characters: the library is quickest with one byte for a character.
    texts = {length: [t.bytes.decode("latin-1") for t in tokens] for length, tokens in by_length.items()}
    known = {length: np.array([t.id for t in tokens]) for length, tokens in by_length.items()}
    order = sorted(range(len(missing)), key=lambda n: (len(missing[n].bytes), n))
    ids, distances = np.full(len(missing), -1), np.full(len(missing), np.iinfo(np.int16).max)
    bar = progress(total=len(missing), desc="Nearest tokens", unit="token", quiet=quiet)
    for length in sorted({len(t.bytes) for t in missing}):
        group = np.array([n for n in order if len(missing[n].bytes) == length])
        for start in range(0, len(group), BLOCK):
            block = group[start : start + BLOCK]
            queries = [missing[n].bytes.decode("latin-1") for n in block]
            for other in sorted(texts, key=lambda n: (abs(n - length), n)):
                # Nothing of this length can be nearer than what there is: nor of any that follows.
                open_ = np.flatnonzero(distances[block] > abs(other - length))
                if not len(open_):
                    break
                apart = _distances([queries[n] for n in open_], texts[other], int(distances[block[open_]].max()))
                best = apart.argmin(axis=1)
                nearer = apart[np.arange(len(open_)), best] < distances[block[open_]]
                places = block[open_[nearer]]
                ids[places] = known[other][best[nearer]]
                distances[places] = apart[np.flatnonzero(nearer), best[nearer]]
            bar.update(len(block))
    bar.close()
    return ids, distances


def _distances(queries: list[str], choices: list[str], largest: int) -> np.ndarray:
    """Levenshtein distances [queries, choices]; those beyond `largest` are `largest` + 1."""
    process, levenshtein = _rapidfuzz()
    return np.asarray(
        process.cdist(queries, choices, scorer=levenshtein.distance, score_cutoff=largest, dtype=np.int16, workers=-1)
    )


def _rapidfuzz() -> tuple[Any, Any]:
    with importing("rapidfuzz", extra="align", wanted_by="the nearest tokens by edit distance (MinED)"):
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein
    return process, Levenshtein
