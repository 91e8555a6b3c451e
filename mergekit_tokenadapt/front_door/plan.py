"""A transfer plan for programs: make it, read it, and apply it to tensors in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.front_door.explanation import RowExplanation
from mergekit_tokenadapt.front_door.loading import load_tokenizer, read_options
from mergekit_tokenadapt.tokenizer.token_lookup import find_id, find_token
from mergekit_tokenadapt.transfer.finite_rows import NotFiniteError
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import AppliedRows, TransferPlan
from mergekit_tokenadapt.transfer.plan_files import save_plan
from mergekit_tokenadapt.transfer.row_regression import Fit
from mergekit_tokenadapt.transfer.transfer import CPU, Transfer
from mergekit_tokenadapt.vocabulary_extension.target import target_of


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How every row of the new vocabulary matrices is made from old rows. `make_plan` returns it."""

    transfer: Transfer
    """The two tokenizers and the method."""

    def __repr__(self) -> str:
        names = f"{self.transfer.base.name!r}, {self.transfer.target.name!r}"
        return f"<Plan({names}): {self.num_rows} rows, method {self.transfer.method_name}>"

    @cached_property
    def rows(self) -> TransferPlan:
        """The plan as data: copied, composed and mean rows by id."""
        return self.transfer.make_plan()

    @property
    def num_rows(self) -> int:
        """Number of rows of the new matrices."""
        return self.transfer.num_rows

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each kind: copied, special, new, padding, unreachable and unresolved."""
        return self.rows.counts()

    def explain(self, token: str | SupportsIndex) -> RowExplanation:
        """Return the old tokens and weights that make the row of a token of the target.

        Args:
            token: the token's text, spelling or id.

        Returns:
            An object that prints as the command `explain` does.

        Raises:
            TokenAdaptError: the target has no such token; the message names the nearest ones.
        """
        if isinstance(token, str):
            row = find_token(self.transfer.target, token).id
        elif isinstance(token, SupportsIndex):
            row = index(token)
            find_id(self.transfer.target, row, self.num_rows)
        else:
            raise TokenAdaptError(f"a token is its text, its spelling or its id, not {token!r:.80}")
        told = self.transfer.method.explain(self.transfer.among([row]))
        return RowExplanation.of(row, self.rows, self.transfer, told.get(row))

    def apply(self, matrix: Tensor, *, use: Literal["input", "output", "tied"] = "input") -> Tensor:
        """Return the new rows of a vocabulary tensor.

        Args:
            matrix: [old rows, ...], any floating dtype, with the vocabulary as its first axis. It is not changed. A
                bias has one axis.
            use: whether the model uses the matrix as embeddings (``input``), as ``lm_head`` (``output``) or as both
                (``tied``). Methods with a regression, such as `calibrated`, give different rows for each.

        Returns:
            [`num_rows`, ...], with the dtype and on the device of `matrix`, without gradient.

        Raises:
            TokenAdaptError: the matrix is no tensor or has fewer rows than the plan uses, or new rows are not finite.
        """
        if not isinstance(matrix, Tensor):
            raise TokenAdaptError(f"a matrix is a tensor of torch, not an object {type(matrix).__name__}")
        with torch.no_grad():
            return self.apply_as(matrix.detach(), "", MatrixUse(use)).rows

    def apply_as(self, matrix: Tensor, name: str, use: MatrixUse, fit: Fit | None = None) -> AppliedRows:
        """Do the work of `TransferPlan.apply`, and name the token in the error about rows that are not finite."""
        try:
            return self.rows.apply(matrix, name, use, fit=fit)
        except NotFiniteError as error:
            token = self.transfer.target.vocabulary.by_id.get(int(error.rows[0]))
            raise error if token is None else error.with_token(token.spelling) from error

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the plan into a file: safetensors with a JSON header. The same plan gives the same bytes."""
        save_plan(self.rows, Path(file))


def make_plan(
    base: Any,
    target: Any,
    *,
    base_rows: int | None = None,
    pad_to_multiple_of: int | None = None,
    device: str | torch.device = CPU,
    trust_remote_code: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Plan:
    """Plan the replacement of a model's tokenizer.

    No weights are read, unless the method needs a donor or the base model.

    Args:
        base: the model as a folder or hub id, or its tokenizer as loaded by transformers.
        target: the new tokenizer: a folder or hub id, or a tokenizer loaded by transformers.
        base_rows: number of rows of the model's vocabulary matrices. None takes `vocab_size` from its config.json, or
            the tokenizer's highest id + 1 if there is no config.
        pad_to_multiple_of: round the number of new rows up to a multiple of this.
        device: device for the neighbour search.
        trust_remote_code: whether code of hub repositories may run.
        quiet: show no progress bars.
        options: keys of the recipe's ``adapt`` block (see `AdaptConfig`), and options of the method.

    Raises:
        TokenAdaptError: a tokenizer cannot be read, or an option or a number is wrong.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> plan = ta.make_plan("./model", "./tokenizer", method="hybrid")  # doctest: +SKIP
        >>> print(plan.explain(" example"))  # doctest: +SKIP
    """
    adapt = read_options(options)
    if base_rows is not None and base_rows < 1:
        raise TokenAdaptError(f"base_rows: takes a number above 0, not {base_rows}")
    old = load_tokenizer(base, trust_remote_code=trust_remote_code)
    named = load_tokenizer(target, trust_remote_code=trust_remote_code)
    new = target_of(adapt, named, old, old.folder).tokenizer
    # Models may have more rows than tokens. The plan has to know them, because ids beyond the rows cannot be copied.
    if base_rows is None:
        base_rows = old.model_rows or old.vocabulary.num_ids
    return planned(
        Transfer.of(
            adapt,
            base=old,
            target=new,
            base_rows=base_rows,
            pad_to_multiple_of=pad_to_multiple_of,
            device=torch.device(device),
            quiet=quiet,
            trust_remote_code=trust_remote_code,
        )
    )


def planned(transfer: Transfer) -> Plan:
    """Return the plan of a transfer. The rows are planned at once, so that errors appear here."""
    plan = Plan(transfer)
    _ = plan.rows
    return plan
