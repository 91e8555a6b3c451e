"""Split old tokens into smaller old tokens, to make training examples for the method `calibrated`.

The rows of an old token and of its pieces are both known. Such pairs show how a row of this model follows from the rows
of the pieces. New tokens have between two and about ten pieces. To get examples with as many pieces, each old token is
split into a requested number of pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary


class Decomposer:
    """Splits old tokens as their own tokenizer would segment their text if they were not in its vocabulary.

    - BPE: the merges that make the token are undone, the one of highest rank first.
    - Unigram and WordPiece: the text is segmented into shorter tokens, by highest score (Unigram) or fewest pieces
      (WordPiece). A smaller length limit for the pieces gives more of them.

    Args:
        definition: the content of the tokenizer's `tokenizer.json`.
        vocabulary: its vocabulary.
        num_rows: number of rows of the old matrix. Tokens with ids beyond them are not used as pieces.
    """

    def __init__(self, definition: Definition, vocabulary: Vocabulary, num_rows: int) -> None:
        model = definition["model"]
        self._halves = _halves(model, vocabulary, num_rows) if model.get("type") == "BPE" else None
        self._pieces = {} if self._halves is not None else _scored_pieces(model, vocabulary, num_rows)
        self._longest = max((len(content) for content in self._pieces), default=0)

    def split(self, token: Token, num_pieces: int) -> list[int]:
        """Split a token into at least 2 and about `num_pieces` pieces.

        Returns:
            The ids of the pieces in their order; an empty list if the token cannot be split.
        """
        if self._halves is not None:
            return self._undo_merges(token.id, num_pieces, self._halves)
        # Pieces of at most 1.5 times the average length give about the requested number.
        longest = max(1, min(len(token.bytes) - 1, math.ceil(1.5 * len(token.bytes) / num_pieces)))
        for limit in range(longest, len(token.bytes)):  # a limit may be too small for characters of several bytes
            if pieces := self._segment(token.bytes, limit):
                return pieces
        return []

    @staticmethod
    def _undo_merges(token_id: int, num_pieces: int, halves: Mapping[int, tuple[int, int, int]]) -> list[int]:
        if token_id not in halves:
            return []
        pieces = [token_id]
        while len(pieces) < max(2, num_pieces):
            # BPE applies merges by ascending rank. The merge of highest rank was applied last, so it is undone first.
            latest = max(range(len(pieces)), key=lambda n: halves[pieces[n]][0] if pieces[n] in halves else -1)
            if pieces[latest] not in halves:
                break
            _, left, right = halves[pieces[latest]]
            pieces[latest : latest + 1] = [left, right]
        return pieces

    def _segment(self, content: bytes, longest: int) -> list[int]:
        """Find the best segmentation into at least 2 pieces of at most `longest` bytes (Viterbi algorithm).

        Returns:
            The ids of the pieces; an empty list if there is no such segmentation.
        """
        # Entry n describes the best segmentation of the first n bytes: its score, and start and id of its last piece.
        best: list[tuple[float, int, int]] = [(0.0, 0, -1)]
        for end in range(1, len(content) + 1):
            candidates = []
            for start in range(max(0, end - min(longest, self._longest)), end):
                piece = self._pieces.get(content[start:end])
                if piece is not None and best[start][0] > -math.inf:
                    candidates.append((best[start][0] + piece[0], start, piece[1]))
            best.append(max(candidates, default=(-math.inf, 0, -1)))
        pieces: list[int] = []
        end = len(content)
        while end and best[end][0] > -math.inf:
            pieces.append(best[end][2])
            end = best[end][1]
        return pieces[::-1] if len(pieces) > 1 else []


def _halves(model: Mapping[str, object], vocabulary: Vocabulary, num_rows: int) -> dict[int, tuple[int, int, int]]:
    """Read the merges of BPE: token id -> (rank of its merge, id of the left part, id of the right part)."""
    by_spelling = vocabulary.by_spelling
    merges: Sequence[str | Sequence[str]] = model.get("merges") or ()  # type: ignore[assignment]
    prefix = str(model.get("continuing_subword_prefix") or "")
    halves: dict[int, tuple[int, int, int]] = {}
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        # "qu" and "##ick" make "quick": the prefix marks the inside of a word, and is no part of the text.
        tokens = [by_spelling.get(spelling) for spelling in (left + right.removeprefix(prefix), left, right)]
        if all(t is not None and t.id < num_rows and t.kind is not TokenKind.SPECIAL for t in tokens):
            whole, first, second = (t.id for t in tokens if t is not None)
            halves.setdefault(whole, (rank, first, second))
    return halves


def _scored_pieces(
    model: Mapping[str, object], vocabulary: Vocabulary, num_rows: int
) -> dict[bytes, tuple[float, int]]:
    """Return bytes -> (score, id) of every token that can be a piece. Without scores (WordPiece), each score is -1.

    A byte token is used only if no other token has its byte. Its score lies far below all others, so that it is used
    only where no other segmentation exists.
    """
    entries = model.get("vocab")
    scores = {n: float(entry[1]) for n, entry in enumerate(entries)} if isinstance(entries, list) else {}
    far_below = min(scores.values(), default=-1.0) - 10

    def rank(token: Token) -> tuple[float, str]:
        return far_below if token.kind is TokenKind.BYTE else scores.get(token.id, -1.0), token.spelling

    best: dict[bytes, Token] = {}
    for token in vocabulary:
        if token.kind in (TokenKind.ORDINARY, TokenKind.BYTE) and token.id < num_rows and token.bytes:
            # Tokens with equal bytes and scores are ordered by spelling, so the choice does not depend on ids.
            best[token.bytes] = max(best.get(token.bytes, token), token, key=rank)
    return {content: (rank(token)[0], token.id) for content, token in best.items()}
