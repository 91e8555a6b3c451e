"""Explain the composition of one new row as text and as data, for `Plan.explain` and the command `explain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mergekit_tokenadapt.terminal.tables import quoted
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.method import Explanation
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.transfer import Transfer

MADE = {
    "copied": "copied: the old row of the same bytes, bit for bit",
    "special": "special: from its counterpart (same string, same role, or named in token_map)",
    "new": "new",
    "padding": "padding: a row without a token",
    "unreachable": "unreachable: another token of TARGET stands for the same byte, and this one is never produced",
}
"""Reason of a row -> the words that explain it."""
FROM_GLOSSARY = "from the glossary"
"""Stands in place of the method's name for rows that the user's glossary makes."""


@dataclass(frozen=True)
class WeightedToken:
    """An old token and the weight of its row in the new row."""

    id: int
    text: str
    weight: float


@dataclass(frozen=True)
class SimilarToken:
    """An old token and its cosine similarity to the new token in the auxiliary space."""

    id: int
    text: str
    similarity: float


@dataclass(frozen=True)
class RowExplanation:
    """The old tokens and weights that compose a new row. Its `str` is the text that the command `explain` prints."""

    id: int
    """The row: a token id of the target tokenizer."""
    text: str | None
    """Text of the token, or None for a row without a token."""
    kind: str | None
    """Kind of the token, or None for a row without a token."""
    reason: str
    """copied, special, new, padding or unreachable."""
    method: str | None
    """The method that composed the row, `FROM_GLOSSARY`, or None for copied and mean rows."""
    made_of: tuple[WeightedToken, ...]
    """Old tokens with their weights, highest weight first. It is empty for a mean row and for a drawn row."""
    output_made_of: tuple[WeightedToken, ...] | None
    """The same for output rows, or None where these have the weights of `made_of`."""
    weights_are: str | None
    """What the weights mean for this method, or how the row is drawn. None for copied and mean rows."""
    neighbours: tuple[SimilarToken, ...]
    """Old tokens near the new one, most similar first, if the method's regression uses them."""
    calibrated: bool
    """Whether a regression that is fitted on each matrix predicts the row, instead of the weighted sum."""

    @classmethod
    def of(cls, row: int, plan: TransferPlan, transfer: Transfer, told: Explanation | None) -> RowExplanation:
        """Explain one row of a plan.

        Args:
            row: the row.
            plan: the plan.
            transfer: the transfer that the plan was made from.
            told: the method's explanation of the row, or None.
        """
        told = told or Explanation()
        token, old = transfer.target.vocabulary.by_id.get(row), transfer.base.vocabulary.by_id

        def weighted(use: MatrixUse) -> tuple[WeightedToken, ...]:
            return tuple(WeightedToken(i, old[i].label, round(w, 6)) for i, w in plan.explain(row, use))

        made_of = weighted(MatrixUse.INPUT)
        neighbours = tuple(SimilarToken(i, old[i].label, round(s, 6)) for i, s in told.neighbours)
        reason = Reason(int(plan.mapping.reasons[row])).name.lower()
        is_defined = bool((plan.glossary_ids == row).any())
        is_drawn = plan.is_drawn(row)
        is_composed = (bool(made_of) or is_drawn) and int(plan.mapping.sources[row]) < 0
        weights_are = transfer.method.drawn_are if is_drawn else told.weights_are
        return cls(
            id=row,
            text=None if token is None else token.label,
            kind=None if token is None else token.kind.value,
            reason="unreachable" if bool((plan.unreachable_ids == row).any()) else reason,
            method=None if not is_composed or reason != "new" else FROM_GLOSSARY if is_defined else plan.method,
            made_of=made_of,
            output_made_of=None if (output := weighted(MatrixUse.OUTPUT)) == made_of else output,
            weights_are=weights_are if is_composed else None,
            neighbours=neighbours if made_of else (),
            calibrated=reason == "new" and transfer.method.has_regression and bool(made_of) and not is_defined,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        name = "no token" if self.text is None else quoted(self.text)
        by = f", made by {self.method}" if self.method else ""
        by = f", made {FROM_GLOSSARY}" if self.method == FROM_GLOSSARY else by
        lines = [f"{name} (id {self.id}): {MADE[self.reason]}{by}"]
        if not self.made_of and not self.weights_are:
            lines.append("  the mean of all other rows; its logit is never the largest")
        if self.weights_are and self.made_of:
            lines.append("  weight of the old row" + (" in an input matrix" if self.output_made_of else ""))
        lines += [f"  {part.weight:7.4f}  {quoted(part.text)} (old id {part.id})" for part in self.made_of]
        if self.output_made_of:
            lines.append("  weight of the old row in an output matrix; a tied matrix has the mean of both rows")
            lines += [f"  {part.weight:7.4f}  {quoted(part.text)} (old id {part.id})" for part in self.output_made_of]
        if self.neighbours:
            lines.append("  cosine similarity of its nearest old tokens")
        lines += [f"  {part.similarity:7.4f}  {quoted(part.text)} (old id {part.id})" for part in self.neighbours]
        if self.weights_are:
            lines.append(f"  ({self.weights_are})")
        return lines
