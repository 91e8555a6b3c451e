"""Find the nearest token of another vocabulary by edit distance: MinED (FuseLLM, arXiv 2401.10491, section 3.3).

The distance is Levenshtein's over bytes: the smallest number of insertions, deletions and substitutions. Among equal
distances, the token with the nearest length is taken, then the shorter one, then the lowest id. Special tokens have no
text. A special token matches the token with the same string or role, as in a transplant, or no token.
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
"""Number of tokens that one call compares with all candidates."""


@dataclass(frozen=True, eq=False)
class NearestTokens:
    """For each id of one vocabulary, the nearest token of another."""

    ids: np.ndarray
    """int32 [highest id + 1]; -1 for ids without a token, and for special tokens without a counterpart."""
    distances: np.ndarray
    """int16 [highest id + 1]; 0 for the same bytes or a special counterpart, -1 where `ids` is -1."""


def nearest_tokens(source: Vocabulary, target: Vocabulary, *, quiet: bool = True) -> NearestTokens:
    """Find the nearest token of `target` for each token of `source`. The result is exact.

    Tokens with the same bytes are looked up. The others are compared with candidates of one length after the other,
    nearest length first. The distance of two strings is at least the difference of their lengths, so the search ends
    when no remaining length can give a nearer token.

    Raises:
        TokenAdaptError: rapidfuzz is not installed or cannot be imported.
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
    """Return the ids and distances of the nearest candidates, int64 [missing] each."""
    by_length: dict[int, list[Token]] = {}
    for token in sorted(candidates, key=lambda t: t.id):
        by_length.setdefault(len(token.bytes), []).append(token)
    # Latin-1 turns each byte into one character; rapidfuzz is fastest on strings with one byte a character.
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
                # Tokens whose distance is at most the difference of lengths are done: neither this length nor a later
                # one can give a nearer candidate.
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
    """Return Levenshtein distances, int16 [queries, choices]. Distances beyond `largest` are `largest` + 1."""
    process, levenshtein = _rapidfuzz()
    return np.asarray(
        process.cdist(queries, choices, scorer=levenshtein.distance, score_cutoff=largest, dtype=np.int16, workers=-1)
    )


def _rapidfuzz() -> tuple[Any, Any]:
    with importing("rapidfuzz", extra="align", wanted_by="the nearest tokens by edit distance (MinED)"):
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein
    return process, Levenshtein
