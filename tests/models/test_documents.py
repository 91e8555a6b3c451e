"""Documents scored token by token, against a slow computation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from scored_texts import DOCUMENTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


def slow_bits(folder: Path, text: str, window: int, stride: int) -> float:
    """An independent computation: one prediction at a time, full softmax in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
    total, scored_from, scored_to = 0.0, 0, min(window, len(ids) - 1)
    for place in range(1, len(ids)):
        if place > scored_to:
            scored_from, scored_to = scored_to, min(scored_to + stride, len(ids) - 1)
        context = ids[max(0, scored_to - window) : place]
        with torch.no_grad():
            logits = model(torch.tensor([context])).logits[0, -1]
        total -= float(torch.log(torch.softmax(logits, 0)[ids[place]]))
    assert scored_from < scored_to
    return total / math.log(2)


@pytest.mark.parametrize("text", DOCUMENTS[:3], ids=["short", "not ascii", "longer than the window"])
def test_bits_per_byte_agree_with_a_slow_computation(base: Path, text: str) -> None:
    scorer = Scorer(load_model(open_model(str(base))), window=32, stride=16)
    (document,) = score_documents(scorer, load_tokenizer(str(base)), [text])
    expected = slow_bits(base, text, 32, 16)
    assert document.bits / document.num_bytes == pytest.approx(expected / len(text.encode()), abs=1e-6)


def test_a_model_without_bos_starts_from_eos_and_without_both_pays_a_uniform_token(
    base: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(base)
    model = load_model(open_model(str(folder)))
    scorer = Scorer(model)
    tiny_models.edit_json(folder / "tokenizer_config.json", lambda c: c.pop("bos_token"))
    (from_eos,) = score_documents(scorer, load_tokenizer(str(folder)), ["the river"])
    assert from_eos.losses[0] == pytest.approx(scorer.score([[1, int(from_eos.ids[0])]])[0][0], abs=1e-5)
    tiny_models.edit_json(folder / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    (from_nothing,) = score_documents(scorer, load_tokenizer(str(folder)), ["the river"])
    assert from_nothing.losses[0] == math.log(len(load_tokenizer(str(folder)).vocabulary))
    assert len(from_nothing.losses) == len(from_nothing.ids) == len(from_eos.ids)


def test_truncation_and_padding_in_the_tokenizer_file_are_ignored(base: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(base)
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tiny_models.edit_json(folder / "tokenizer.json", lambda c: c.update(truncation=truncation))
    scorer = Scorer(load_model(open_model(str(base))))
    texts = ["the river runs past the old mill", "the"]
    whole = score_documents(scorer, load_tokenizer(str(base)), texts)
    same = score_documents(scorer, load_tokenizer(str(folder)), texts)
    assert [d.bits for d in same] == [d.bits for d in whole]
