"""Bits per byte in one call."""

from __future__ import annotations

from pathlib import Path

import pytest
from scored_texts import DOCUMENTS
from transformers import AutoTokenizer

from mergekit_tokenadapt.evaluation.bits_per_byte import bits_per_byte
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


def test_the_one_call_agrees_with_the_documents(base: Path) -> None:
    model = load_model(open_model(str(base)))
    (document,) = score_documents(Scorer(model), load_tokenizer(str(base)), [DOCUMENTS[0]])
    value = bits_per_byte(model, AutoTokenizer.from_pretrained(base), DOCUMENTS[0])
    assert value == pytest.approx(document.bits / document.num_bytes, abs=1e-9)
