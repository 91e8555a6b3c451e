"""What several tests of plans share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from small_plans import OLD_ROWS, plan_between

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.plan import TransferPlan


@pytest.fixture(scope="session")
def plan(zoo: Mapping[str, TokenizerFiles]) -> TransferPlan:
    """With rows of every origin: copied, composed (new, and from a text), mean (padding, special, unresolved)."""
    made = plan_between(
        zoo["unigram"],
        zoo["byte-level"],
        name="mean",
        num_rows=610,
        token_map={"<s>": "<|im_start|>", "<tool>": " the river"},
    )
    assert zoo["unigram"].vocabulary.num_ids == OLD_ROWS
    counts = made.counts()
    assert all(counts[kind] > 0 for kind in ("copied", "special", "new", "padding", "unresolved")), counts
    return made
