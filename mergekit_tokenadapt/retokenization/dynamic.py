"""Merge frequent sequences of tokens for one batch, to shorten a prompt.

This is dynamic tokenization (Feher et al., "Retrofitting Large Language Models with Dynamic Tokenization", arXiv
2411.18553, section 3.1). Pairs of neighbouring tokens are merged as in BPE, the batch's most frequent pair first, but
never across the start of a word. The new tokens exist for this batch only. Their input rows are computed from old rows.
They have no output rows, so the model cannot generate them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergekit_tokenadapt.auxiliary import AuxiliarySpace
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.transfer import Transfer


@dataclass(frozen=True)
class DynamicBatch:
    """A batch of sequences with tokens of its own."""

    sequences: list[list[int]]
    """Token ids. Ids from `first_new` on are new tokens."""
    new_tokens: list[tuple[int, ...]]
    """The old ids that each new token replaces."""
    first_new: int
    """Id of the first new token. It equals the number of rows of the model."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all sequences."""
        return sum(map(len, self.sequences))


def merge_frequent_pairs(
    sequences: Sequence[Sequence[int]], vocabulary: Vocabulary, num_merges: int, *, num_rows: int
) -> DynamicBatch:
    """Merge the most frequent pair of neighbouring tokens, up to `num_merges` times.

    Args:
        sequences: token ids of one batch.
        vocabulary: the vocabulary of these ids. Special tokens are not merged. Tokens that begin with white space are
            not merged with the token before them.
        num_merges: largest number of merges. It ends earlier when no pair occurs twice.
        num_rows: number of rows of the model; the first new id.
    """
    merged = [list(ids) for ids in sequences]
    parts: dict[int, tuple[int, ...]] = {}
    by_id = vocabulary.by_id

    def may_follow(left: int, right: int) -> bool:
        first, second = by_id[parts.get(left, (left,))[0]], by_id[parts.get(right, (right,))[0]]
        if TokenKind.SPECIAL in (first.kind, second.kind):
            return False
        return not second.bytes[:1].isspace()  # white space starts a word, which a merge does not cross

    for number in range(num_merges):
        counts = Counter(pair for ids in merged for pair in itertools.pairwise(ids) if may_follow(*pair))
        if not counts:
            break
        # Among equally frequent pairs, the lowest ids win, so that the result does not depend on the order of counting.
        (left, right), count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        if count < 2:
            break
        new = num_rows + number
        parts[new] = parts.get(left, (left,)) + parts.get(right, (right,))
        merged = [_replace(ids, left, right, new) for ids in merged]
    return DynamicBatch(merged, list(parts.values()), num_rows)


def _replace(ids: list[int], left: int, right: int, new: int) -> list[int]:
    result: list[int] = []
    place = 0
    while place < len(ids):
        if place + 1 < len(ids) and (ids[place], ids[place + 1]) == (left, right):
            result.append(new)
            place += 2
        else:
            result.append(ids[place])
            place += 1
    return result


def input_rows(
    batch: DynamicBatch,
    tokenizer: TokenizerFiles,
    matrix_VD: Tensor,
    adapt: AdaptConfig,
    auxiliary: AuxiliarySpace | None = None,
) -> Tensor:
    """Return the input matrix followed by rows for the batch's new tokens, [V + new, D].

    The method treats the new tokens as tokens of a target vocabulary. A new token with the same bytes as an old token
    gets a copy of that token's row.

    Args:
        batch: see `merge_frequent_pairs`.
        tokenizer: the model's tokenizer.
        matrix_VD: the model's input embeddings.
        adapt: the method and its options, as in a recipe's `adapt` block.
        auxiliary: an auxiliary space, for methods that need one.
    """
    base = tokenizer.vocabulary
    made = [_as_token(batch.first_new + n, ids, base) for n, ids in enumerate(batch.new_tokens)]
    transfer = Transfer.of(
        adapt,
        base=tokenizer,
        target=tokenizer.with_tokens(made),
        num_rows=batch.first_new + len(made),
        base_rows=len(matrix_VD),
        auxiliary=auxiliary,
        device=matrix_VD.device,
        quiet=True,
    )
    rows = transfer.make_plan().apply(matrix_VD).rows
    rows[: batch.first_new] = matrix_VD[: batch.first_new]
    return rows


def _as_token(token_id: int, ids: Sequence[int], base: Vocabulary) -> Token:
    content = b"".join(base.by_id[i].bytes for i in ids)
    return Token(token_id, f"<dynamic {token_id}>", content, TokenKind.ORDINARY)
