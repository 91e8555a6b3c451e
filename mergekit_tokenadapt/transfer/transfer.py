"""One model's way from its own tokenizer to another: everything that a plan is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

from mergekit_tokenadapt.auxiliary import AuxiliarySpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.donor import Donor
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.matching import VocabularyMap, match
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.plan import TransferPlan, make_plan
from mergekit_tokenadapt.transfer.problem import CPU, TransferProblem

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Transfer:
    """A base tokenizer, a target tokenizer and a method. Compared by identity.

    `Transfer.of` makes one from the options of a recipe; the matching of the vocabularies, the problem that a method
    is given and the plan all come from here.
    """

    base: TokenizerFiles
    target: TokenizerFiles
    method_name: str
    """As it is registered; the plan states it."""
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

    @classmethod
    def of(
        cls,
        adapt: AdaptConfig,
        *,
        base: TokenizerFiles,
        target: TokenizerFiles,
        base_rows: int,
        num_rows: int | None = None,
        pad_to_multiple_of: int | None = None,
        auxiliary: AuxiliarySpace | None = None,
        donor: Donor | None = None,
        device: torch.device = CPU,
        quiet: bool = False,
        trust_remote_code: bool = False,
    ) -> Transfer:
        """The transfer that the options of a recipe's ``adapt`` block ask for, checked.

        Args:
            adapt: the options.
            base: the model's own tokenizer.
            target: the tokenizer that the model is to get.
            base_rows: rows of the model's vocabulary matrices.
            num_rows: rows of the new ones; None: what `choose_rows` says.
            pad_to_multiple_of: see `choose_rows`.
            auxiliary: the embedding space, where several transfers share it; None: the one that `adapt` names.
            donor: the target's model, for methods that need it; None: the weights at `target.name`.
            device: where neighbours are searched for.
            quiet: no progress bars.
            trust_remote_code: whether a donor's own code may run.

        Raises:
            TokenAdaptError: see `choose_rows` and `check`.
        """
        method = adapt.make_method()
        if num_rows is None:
            num_rows = choose_rows(adapt.rows, [(base, base_rows)], target, pad_to_multiple_of)
        if method.needs_donor and donor is None:
            donor = Donor(target.name, trust_remote_code)
        transfer = cls(
            base=base,
            target=target.with_rows(num_rows),
            method_name=adapt.method,
            method=method,
            num_rows=num_rows,
            base_rows=base_rows,
            auxiliary=auxiliary or adapt.make_auxiliary(),
            donor=donor,
            token_map=adapt.token_map,
            device=device,
            quiet=quiet,
        )
        transfer.check()
        return transfer

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
        return TransferProblem(
            base=self.base.vocabulary,
            target=self.target.vocabulary,
            mapping=self.mapping,
            segmenter=Segmenter(self.base.definition, self.base.vocabulary, self.base_rows),
            base_rows=self.base_rows,
            auxiliary=self.auxiliary,
            device=self.device,
            quiet=self.quiet,
            donor=self.donor,
            only=only,
            without_byte_twins=self.method.unreachable_as_mean,
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
        target: the tokenizer of the output.
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
    if num_rows < needed:
        _check_tokens_without_rows(rows, num_rows, target)
    multiple = pad_to_multiple_of or 1
    num_rows = -(-num_rows // multiple) * multiple
    if num_rows > max(MANY, MANY_PER_ID * needed):
        raise TokenAdaptError(
            f"{num_rows:,} rows (rows: {rows or 'exact'}, pad_to_multiple_of: {multiple}) are beyond reason for a "
            f"tokenizer of {needed:,} ids"
        )
    return num_rows


def _check_tokens_without_rows(rows: str | int | None, num_rows: int, target: TokenizerFiles) -> None:
    """Tell of added tokens that are left without a row, as in published models that never see an image.

    Raises:
        TokenAdaptError: a token that text is made of, or one with a role, would have none.
    """
    vocabulary = target.vocabulary
    beyond = [token for token in vocabulary if token.id >= num_rows]
    if num_rows < vocabulary.num_text_ids or any(token.id in vocabulary.roles.values() for token in beyond):
        raise TokenAdaptError(
            f"rows: {rows} means {num_rows} rows, but the target's highest token id is {vocabulary.num_ids - 1}: "
            f"at least {vocabulary.num_ids} are needed"
        )
    shown = ", ".join(repr(token.spelling) for token in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
    LOG.warning("rows: %s leaves %d added tokens of %s without a row: %s", rows, len(beyond), target.name, shown)
