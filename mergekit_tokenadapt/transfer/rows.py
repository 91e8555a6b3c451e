"""The number of rows of the new vocabulary matrices."""

from __future__ import annotations

import logging
from typing import Literal

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

LOG = logging.getLogger(__name__)

MANY, MANY_PER_ID = 1_000_000, 100
"""More rows than the larger of 1,000,000 and 100 for each id of the tokenizer are taken for a typing error."""


def choose_rows(
    rows: Literal["exact", "donor"] | int | None,
    bases: list[tuple[TokenizerFiles, int]],
    target: TokenizerFiles,
    pad_to_multiple_of: int | None = None,
) -> int:
    """Return the number of rows of the new vocabulary matrices.

    Without a wish there is one row for each id of the target. An input model whose vocabulary is the target's keeps
    its number of rows, so that its matrices do not change.

    Args:
        rows: the recipe's wish, see `AdaptConfig.rows`.
        bases: tokenizer and number of rows of each input model.
        target: the tokenizer of the output.
        pad_to_multiple_of: the number is rounded up to a multiple of this.

    Raises:
        TokenAdaptError: there are too few rows for the target's ids, added tokens aside; or far more than ids; or
            `rows: donor` was asked for, and the target comes without a model; or `pad_to_multiple_of` is below 1.
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
    multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
    if multiple < 1:
        raise TokenAdaptError(f"pad_to_multiple_of: takes a number above 0, not {multiple}")
    num_rows = -(-num_rows // multiple) * multiple
    if num_rows > max(MANY, MANY_PER_ID * needed):
        raise TokenAdaptError(
            f"{num_rows:,} rows (rows: {rows or 'exact'}, pad_to_multiple_of: {multiple}) are beyond reason for a "
            f"tokenizer of {needed:,} ids"
        )
    return num_rows


def _check_tokens_without_rows(rows: str | int | None, num_rows: int, target: TokenizerFiles) -> None:
    """Warn of added tokens that get no row.

    Published models have such tokens, for instance image markers of a text model, and work without their rows.

    Raises:
        TokenAdaptError: a token that occurs in text, or that has a role, would have no row.
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
