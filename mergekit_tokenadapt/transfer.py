"""One model's way from its own tokenizer to another: everything that a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

from mergekit_tokenadapt.auxiliary import AuxiliarySpace
from mergekit_tokenadapt.donor import Donor
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.matching import VocabularyMap, match
from mergekit_tokenadapt.methods import Method
from mergekit_tokenadapt.plan import TransferPlan, make_plan
from mergekit_tokenadapt.problem import CPU, TransferProblem
from mergekit_tokenadapt.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer_files import TokenizerFiles


@dataclass(frozen=True, eq=False)
class Transfer:
    """A base tokenizer, a target tokenizer and a method. Compared by identity."""

    base: TokenizerFiles
    target: TokenizerFiles
    method_name: str
    method: Method
    num_rows: int
    """Rows of the new matrices."""
    base_rows: int
    """Rows of the old matrices."""
    auxiliary: AuxiliarySpace | None = None
    donor: Donor | None = None
    """The target's model, for methods that need it."""
    token_map: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = CPU
    quiet: bool = False

    def check(self) -> None:
        """Match the vocabularies, to find out what a plan would stumble over.

        Raises:
            TokenAdaptError: the token map names tokens that are unknown, or that have no row; the method asks for
                more tokens than there are; or it needs a donor, and the target has no weights.
        """
        self.method.check(len(self.base.vocabulary))
        _ = self.mapping
        if self.method.needs_donor:
            assert self.donor is not None
            self.donor.check(self.target.vocabulary)

    def make_problem(self, only: frozenset[int] | None = None) -> TransferProblem:
        """Match the vocabularies; with `only`, ask for the rows of these target ids and no others."""
        base, target, mapping = self.base.vocabulary, self.target.vocabulary, self.mapping
        segmenter = Segmenter(self.base.definition, base, self.base_rows)
        return TransferProblem(
            base,
            target,
            mapping,
            segmenter,
            self.base_rows,
            self.auxiliary,
            self.device,
            self.quiet,
            self.donor,
            only,
            without_byte_twins=self.method.mutes_byte_twins,
        )

    def make_plan(self, only: frozenset[int] | None = None) -> TransferPlan:
        """Match the vocabularies and let the method weigh the new tokens."""
        return make_plan(self.make_problem(only), self.method_name, self.method)

    @cached_property
    def mapping(self) -> VocabularyMap:
        """How the vocabularies match; worked out once, for the check and for the plan."""
        base, target = self.base.vocabulary, self.target.vocabulary
        return match(base, target, num_rows=self.num_rows, base_rows=self.base_rows, token_map=self.token_map)


MANY, MANY_PER_ID = 1_000_000, 100
"""So many rows, and so many for each id of the tokenizer, are a slip of the finger."""


def choose_rows(
    rows: Literal["exact", "donor"] | int | None,
    bases: list[tuple[TokenizerFiles, int]],
    target: TokenizerFiles,
    pad_to_multiple_of: int | None = None,
) -> int:
    """Rows of the output matrices: one for each id of the target, if nothing else is asked for.

    Args:
        rows: what the recipe asks for, see `AdaptConfig.rows`.
        bases: tokenizer and rows of each input model.
        target: the tokenizer that the output is to speak.
        pad_to_multiple_of: round up to a multiple of this.

    Raises:
        TokenAdaptError: too few rows for the target's ids (those of added tokens aside) or beyond reason, or `rows:
            donor` without its model.
    """
    needed = target.vocabulary.num_ids
    if rows == "donor":
        if target.model_rows is None:
            raise TokenAdaptError(
                f"rows: donor needs a config.json with vocab_size beside the tokenizer, and {target.name!r} has none"
            )
        num_rows = target.model_rows
    elif rows == "exact":
        num_rows = needed
    elif rows is None:
        same = [n for base, n in bases if n >= needed and base.vocabulary.tokens == target.vocabulary.tokens]
        num_rows = same[0] if same else needed
    else:
        num_rows = rows
    if num_rows < target.vocabulary.num_text_ids:
        raise TokenAdaptError(
            f"rows: {rows} means {num_rows} rows, but the target's highest token id is {needed - 1}: "
            f"at least {needed} are needed"
        )
    multiple = pad_to_multiple_of or 1
    num_rows = -(-num_rows // multiple) * multiple
    if num_rows > max(MANY, MANY_PER_ID * needed):
        raise TokenAdaptError(
            f"{num_rows:,} rows (rows: {rows or 'exact'}, pad_to_multiple_of: {multiple}) are beyond reason for a "
            f"tokenizer of {needed:,} ids"
        )
    return num_rows
