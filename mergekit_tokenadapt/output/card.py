"""The model card that mergekit has written, with a section on the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergekit_tokenadapt.output.manifest import package_version
from mergekit_tokenadapt.plan import TransferPlan

SHOWN_REASONS = ("copied", "special", "new", "padding")


def extend_model_card(card: Path, target: str, plans: Sequence[tuple[str, TransferPlan]]) -> None:
    """Append the section, where there is a card; `plans` pairs each input model's name with its plan."""
    if not card.is_file():
        return
    lines = ["", "### Tokenizer", ""]
    lines += [f"The tokenizer is that of `{target}`, put in place without training by"]
    lines += [f"mergekit-tokenadapt {package_version('mergekit-tokenadapt')}, method `{plans[0][1].method}`.", ""]
    lines += ["| input model | " + " | ".join(SHOWN_REASONS) + " |", "|---" * (len(SHOWN_REASONS) + 1) + "|"]
    for name, plan in plans:
        counts = plan.counts()
        lines += [f"| {name} | " + " | ".join(f"{counts[reason]:,}" for reason in SHOWN_REASONS) + " |"]
    with card.open("a", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + "\n")
