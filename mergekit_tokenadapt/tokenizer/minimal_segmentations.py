"""All shortest ways to write a text in old tokens, for the method `vipi`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary


@dataclass(frozen=True)
class _Edge:
    """A piece at a place of the text."""

    start: int
    end: int
    id: int


class MinimalSegmentations:
    """Segments texts into as few old tokens as possible, whatever the old tokenizer itself would do.

    Args:
        vocabulary: the old vocabulary.
        num_rows: number of rows of the old matrix. Tokens with ids beyond them are not used.
    """

    def __init__(self, vocabulary: Vocabulary, num_rows: int) -> None:
        def preference(token: Token) -> tuple[bool, bool, str]:
            return token.id not in vocabulary.byte_twins, token.kind is TokenKind.ORDINARY, token.spelling

        best: dict[bytes, Token] = {}
        for token in vocabulary:
            if token.kind is not TokenKind.SPECIAL and token.id < num_rows and token.bytes:
                # Of tokens with equal bytes, one that the tokenizer produces. The choice does not depend on ids.
                best[token.bytes] = max(best.get(token.bytes, token), token, key=preference)
        self._ids = {content: token.id for content, token in best.items()}
        self._longest = max(map(len, self._ids), default=0)

    def shares(self, content: bytes) -> dict[int, float]:
        """Return how often each old token occurs in the minimal segmentations, as a share of all their pieces.

        Minimal are those with the fewest pieces, and among these the ones whose longest piece has the most bytes.

        Returns:
            Old id to share, by ascending id; the shares add up to 1. Empty if no segmentation exists.
        """
        edges = self._shortest_edges(content)
        if not edges:
            return {}
        longest = max(edge.end - edge.start for edge in edges)
        every, num_all = _times_used(edges, len(content))
        # Those without a piece of the largest length are taken away again.
        shorter, num_shorter = _times_used([e for e in edges if e.end - e.start < longest], len(content))
        counts: Counter[int] = Counter()
        for edge, times in every.items():
            counts[edge.id] += times - shorter.get(edge, 0)
        total = sum(counts.values())
        assert num_all > num_shorter
        return {i: count / total for i, count in sorted(counts.items()) if count}

    def _shortest_edges(self, content: bytes) -> list[_Edge]:
        """Return the pieces of all segmentations with the fewest pieces, by ascending start.

        The result is empty if there is no segmentation.
        """
        size = len(content)
        fewest = [0, *[size + 1] * size]
        into: list[list[_Edge]] = [[] for _ in range(size + 1)]
        for end in range(1, size + 1):
            for start in range(max(0, end - self._longest), end):
                piece = self._ids.get(content[start:end])
                if piece is None or fewest[start] > size:
                    continue
                if fewest[start] + 1 < fewest[end]:
                    fewest[end], into[end] = fewest[start] + 1, []
                if fewest[start] + 1 == fewest[end]:
                    into[end].append(_Edge(start, end, piece))
        # What is not on a way to the end of the text is left out.
        needed, edges = {size}, []
        for end in range(size, 0, -1):
            if end in needed:
                edges += into[end]
                needed |= {edge.start for edge in into[end]}
        return sorted(edges, key=lambda edge: (edge.start, edge.end))


def _times_used(edges: list[_Edge], size: int) -> tuple[Mapping[_Edge, int], int]:
    """Return in how many paths from 0 to `size` each edge lies, and the number of paths.

    Args:
        edges: by ascending start.
        size: where the paths end.
    """
    before, after = [1, *[0] * size], [*[0] * size, 1]
    for edge in edges:
        before[edge.end] += before[edge.start]
    for edge in reversed(edges):
        after[edge.start] += after[edge.end]
    return {edge: before[edge.start] * after[edge.end] for edge in edges}, before[size]
