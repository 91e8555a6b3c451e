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
from mergekit_tokenadapt.transfer.row_regression import RowRegression

if TYPE_CHECKING:  # a transfer holds a method
    from mergekit_tokenadapt.transfer.transfer import Transfer

OF_TOKENS = "a number of tokens of the base vocabulary"
"""Marks an option of a method (``Annotated[int, OF_TOKENS]``) that cannot be larger than the base vocabulary."""
LEAST_TEMPERATURE = 1e-6
"""Weights are made of float32 numbers divided by the temperature; below about 1e-38 these overflow."""


@dataclass(frozen=True)
class Explanation:
    """What the weights of a new token mean, for `explain`."""

    weights_are: str = "the row is the sum of these old rows, times their weights"
    neighbours: Sequence[tuple[int, float]] = ()
    """(old id, cosine similarity in the auxiliary space), most similar first, where a map predicts from them."""


class Method(pydantic.BaseModel, ABC):
    """One way to compute rows for new tokens. Its fields are its options in the recipe.

    Implementations register under the entry-point group ``mergekit_tokenadapt.methods``. A method is
    pure arithmetic: it gets tokens, ids and vectors, and returns weights. It reads no files.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    summary: ClassVar[str]
    """One line for `mergekit-tokenadapt methods`."""
    source: ClassVar[str]
    """Where the method comes from."""
    needs_auxiliary: ClassVar[bool] = False
    has_regression: ClassVar[bool] = False
    """Whether `make_regression` gives a map; rows then need the matrix, and not only the compositions."""
    unreachable_as_mean: ClassVar[bool] = False
    """Whether byte tokens that the target never produces, because an ordinary token stands for the same
    byte, become mean rows. As copies they would take half of that token's probability. And the base's own such
    tokens, whose rows nothing trained, are no candidates (`Transfer.candidates`)."""

    @property
    def needs_donor(self) -> bool:
        """Whether the method uses the rows of the target's model. TARGET must then have weights."""
        return False

    def check(self, num_tokens: int) -> None:
        """Refuse, before any slow step, options that ask for more tokens than the base vocabulary has.

        Args:
            num_tokens: tokens of the base vocabulary.

        Raises:
            TokenAdaptError: an option asks for more tokens than there are.
        """
        for name in sorted(self.model_fields_set):  # a default is no wish of anybody's: it takes what there is
            field = type(self).model_fields.get(name)
            if field is not None and OF_TOKENS in field.metadata and getattr(self, name) > num_tokens:
                raise TokenAdaptError(
                    f"{name}: {getattr(self, name):,} {field.description} are more than the base vocabulary's "
                    f"{num_tokens:,} tokens"
                )

    @abstractmethod
    def weigh(self, transfer: Transfer) -> SparseRows:
        """Return the weights of old rows for each of the N new tokens. This needs no weights of the model.

        A token for which the method finds nothing gets an empty composition; its row is then the mean row.
        """

    def explain(self, transfer: Transfer) -> dict[int, Explanation]:
        """Return, by target id, what the weights of `weigh` mean and what else a new row is predicted from."""
        return dict.fromkeys(transfer.new_ids.tolist(), Explanation())

    def make_regression(self, transfer: Transfer) -> RowRegression | None:
        """Return a regression to fit on each matrix; its predictions replace the weighted sums. None: there is none."""
        return None


def find_method(name: str, options: Mapping[str, Any], beside: Sequence[str] = ()) -> Method:
    """Return the method that a recipe names, with its options.

    Args:
        name: under which it is registered.
        options: its own.
        beside: other keys that may stand beside them, for the message about an unknown one.

    Raises:
        TokenAdaptError: unknown name or option, or a value out of range; the message names the key.
    """
    method = entry_points.load(entry_points.METHODS, name, Method)
    try:
        return method.model_validate(dict(options))
    except pydantic.ValidationError as error:
        says = describe_errors(error, list(method.model_fields), beside)
        raise TokenAdaptError(f"method {name!r}: {says}") from error
