"""Frequent sequences of tokens merged for one batch, to shorten a prompt: dynamic tokenization (Feher et
al., "Retrofitting Large Language Models with Dynamic Tokenization", arXiv 2411.18553, section 3.1).

Pairs of tokens that are next to each other are merged, the most frequent one of the batch first, as
in BPE; never across the beginning of a word. The new tokens live for the batch only: their input
rows are made on the fly, and nothing ever predicts them.
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
    """A batch with its own tokens."""

    sequences: list[list[int]]
    """Ids; those from `first_new` on are new."""
    new_tokens: list[tuple[int, ...]]
    """The old ids that each new token stands for."""
    first_new: int
    """The id of the first new token: the number of rows of the model."""

    @property
    def num_tokens(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.sequences))


def merge_frequent_pairs(
    sequences: Sequence[Sequence[int]], vocabulary: Vocabulary, num_merges: int, *, num_rows: int
) -> DynamicBatch:
    """Merge the most frequent pair of neighbours, again and again.

    Args:
        sequences: token ids of one batch.
        vocabulary: whose ids they are. Special tokens are not merged, and nothing is merged with a token
            after it that begins with white space.
        num_merges: at most; it ends earlier when no pair occurs twice.
        num_rows: of the model: where new ids begin.
    """
    merged = [list(ids) for ids in sequences]
    parts: dict[int, tuple[int, ...]] = {}
    by_id = vocabulary.by_id

    def may_follow(left: int, right: int) -> bool:
        first, second = by_id[parts.get(left, (left,))[0]], by_id[parts.get(right, (right,))[0]]
        if TokenKind.SPECIAL in (first.kind, second.kind):
            return False
        return not second.bytes[:1].isspace()

    for number in range(num_merges):
        counts = Counter(pair for ids in merged for pair in itertools.pairwise(ids) if may_follow(*pair))
        if not counts:
            break
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
    """The input matrix with rows for the batch's tokens below it, [V + new, D].

    The new tokens are put to the method as a target vocabulary would be; a token that has the bytes of an
    old one gets that one's row.

    Args:
        batch: see `merge_frequent_pairs`.
        tokenizer: the model's own.
        matrix_VD: its input embeddings.
        adapt: the method that makes the rows, and its options. Other keys of a recipe are not used.
        auxiliary: the space for methods that need one; None: the space that `adapt` names.
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
    rows = transfer.make_plan().apply(matrix_VD)
    rows[: batch.first_new] = matrix_VD[: batch.first_new]
    return rows


def _as_token(token_id: int, ids: Sequence[int], base: Vocabulary) -> Token:
    content = b"".join(base.by_id[i].bytes for i in ids)
    return Token(token_id, f"<dynamic {token_id}>", content, TokenKind.ORDINARY)
