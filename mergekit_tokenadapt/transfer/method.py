"""The contract of a method, and how a recipe names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions import entry_points
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.terminal.plain_words import describe_errors
from mergekit_tokenadapt.transfer.drawn_rows import DrawnRows
from mergekit_tokenadapt.transfer.given_rows import GivenRows
from mergekit_tokenadapt.transfer.median_norms import MedianNorms
from mergekit_tokenadapt.transfer.row_regression import RowRegression

if TYPE_CHECKING:  # a transfer holds a method
    from mergekit_tokenadapt.transfer.transfer import Transfer

OF_TOKENS = "a number of tokens of the base vocabulary"
"""Marks an option of a method (``Annotated[int, OF_TOKENS]``) that cannot be larger than the base vocabulary."""
LEAST_TEMPERATURE = 1e-6
"""Weights are made of float32 numbers divided by the temperature; below about 1e-38 these overflow."""


@dataclass(frozen=True)
class Explanation:
    """What the weights of a new token mean, for the command `explain`."""

    weights_are: str = "the row is the sum of these old rows, times their weights"
    neighbours: Sequence[tuple[int, float]] = ()
    """Pairs of old id and cosine similarity, most similar first, where a regression predicts the row from them."""


class Method(pydantic.BaseModel, ABC):
    """One way to compute rows for new tokens. Its fields are its options in the recipe.

    `weigh` is all that most methods need. The other functions are for rows that differ between matrices: other weights
    for output rows, rescaled input rows, rows that are drawn or given, and rows that a regression predicts.

    Implementations register under the entry-point group ``mergekit_tokenadapt.methods``. A method gets a `Transfer`
    (tokens, ids, pieces, vectors) and returns weights. It reads no files but those that `files` names.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    summary: ClassVar[str]
    """One line for `mergekit-tokenadapt methods`."""
    source: ClassVar[str]
    """The paper or project that the method comes from."""
    needs_auxiliary: ClassVar[bool] = False
    """Whether the method compares texts in an auxiliary space. `Transfer.vectors_of` needs one."""
    has_regression: ClassVar[bool] = False
    """Whether `make_regression` returns a regression. New rows then depend on the matrix, not on weights alone."""
    needs_base_model: ClassVar[bool] = False
    """Whether the method runs the base model, see `Transfer.load_base_model`."""
    unreachable_as_mean: ClassVar[bool] = False
    """Whether byte twins become mean rows. The target never produces a byte token where an ordinary token stands for
    the same byte. As a copy of the same row, it would get half of that token's probability. The base's byte twins are
    then no candidates either, because nothing trained their rows (see `Transfer.candidates`)."""

    drawn_are: ClassVar[str] = "the row is random"
    """What `explain` says about a row that `draw` returns."""

    @property
    def needs_donor(self) -> bool:
        """Whether the method uses the rows of the target's model. TARGET must then have weights."""
        return False

    @property
    def files(self) -> Mapping[str, str]:
        """Paths of the files and folders that options name, by option.

        The manifest has their hashes, and an output may not replace them.
        """
        return {}

    def check(self, num_tokens: int) -> None:
        """Refuse, before any slow step, options that ask for more tokens than the base vocabulary has.

        Args:
            num_tokens: tokens of the base vocabulary.

        Raises:
            TokenAdaptError: an option asks for more tokens than there are.
        """
        # Options that the user set. A default that is too large is silently limited to the vocabulary.
        for name in sorted(self.model_fields_set):
            field = type(self).model_fields.get(name)
            if field is not None and OF_TOKENS in field.metadata and getattr(self, name) > num_tokens:
                raise TokenAdaptError(
                    f"{name}: {getattr(self, name):,} {field.description} are more than the base vocabulary's "
                    f"{num_tokens:,} tokens"
                )

    @abstractmethod
    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of old rows for each new token. The model's own weights are not needed.

        Args:
            transfer: the two tokenizers, and what is derived from them.

        Returns:
            N rows in the order of `transfer.new_tokens`; the ids are those of base tokens. A token for which the method
            finds nothing gets an empty row, and then becomes a mean row.
        """

    def weigh_output(self, transfer: Transfer) -> SparseRows | None:
        """Return the weights for output rows where they differ from those of `weigh`; None: they do not.

        A tied matrix then gets the mean of the two rows. A token has weights here if and only if `weigh` gives it some.

        Args:
            transfer: the two tokenizers, and what is derived from them.
        """
        return None

    def input_norms(self, transfer: Transfer) -> MedianNorms | None:
        """Return the norms that input rows get in place of their own, for each of the N new tokens; None: they keep it.

        Rows of tied matrices keep their norms, because a tied row is an output row as well.

        Args:
            transfer: the two tokenizers, and what is derived from them.
        """
        return None

    def draw(self, transfer: Transfer, weights: SparseRows) -> DrawnRows | None:
        """Return the new rows that are drawn at random, in place of the sums of `weigh`; None: there are none.

        Args:
            transfer: the two tokenizers, and what is derived from them.
            weights: the result of `weigh`.
        """
        return None

    def give(self, transfer: Transfer) -> GivenRows | None:
        """Return new rows that are given as numbers, in place of the sums of `weigh`; None: there are none.

        Args:
            transfer: the two tokenizers, and what is derived from them, for all new tokens.
        """
        return None

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return, by target id, what the weights of `weigh` mean, and from which neighbours a row is predicted."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation())

    def make_regression(self, transfer: Transfer) -> RowRegression | None:
        """Return the regression whose predictions replace the weighted sums of `weigh`; None: there is none.

        Args:
            transfer: the two tokenizers, and what is derived from them, for all new tokens.
        """
        return None


def find_method(name: str, options: Mapping[str, Any], beside: Sequence[str] = ()) -> Method:
    """Return the method that a recipe names, with its options.

    Args:
        name: the name under which the method is registered.
        options: the method's own options.
        beside: other keys of the recipe's block, which the message about an unknown key suggests as well.

    Raises:
        TokenAdaptError: unknown name or option, or a value out of range; the message names the key.
    """
    method = entry_points.load(entry_points.METHODS, name, Method)
    try:
        return method.model_validate(dict(options))
    except pydantic.ValidationError as error:
        says = describe_errors(error, list(method.model_fields), beside)
        raise TokenAdaptError(f"method {name!r}: {says}") from error
