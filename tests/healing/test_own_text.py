"""Text that the base model writes: from prompts of its own vocabulary, kept in shards, mixed in evenly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick_healing import healed
from safetensors.torch import load_file

from mergekit_tokenadapt.healing import run as run_module
from mergekit_tokenadapt.healing import sampled_text
from mergekit_tokenadapt.healing.own_text import own_passages, spread
from mergekit_tokenadapt.healing.sampled_text import start_of
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

CPU = torch.device("cpu")


def test_passages_begin_with_single_tokens_and_are_kept(pair, tmp_path, monkeypatch):
    base = open_model(str(pair[0]))
    first = own_passages(base, 20, 0, CPU, tmp_path, quiet=True)
    assert 10 < len(first) <= 20
    prompts = load_file(str(tmp_path / "own-000000.safetensors"))["ids"][:, len(start_of(base))].tolist()
    assert set(prompts) <= set(base.tokenizer.vocabulary.ids(TokenKind.ORDINARY).tolist())
    assert len(set(prompts)) > len(prompts) // 2
    assert len(set(first)) > len(first) // 2
    assert len(list(tmp_path.glob("own-*"))) == 2
    monkeypatch.setattr(sampled_text, "continue_prompts", lambda *_: pytest.fail("everything was written"))
    assert own_passages(base, 20, 0, CPU, tmp_path, quiet=True) == first


def test_the_same_passages_after_a_stop_however_many_there_is_time_for(pair, tmp_path, caplog):
    base = open_model(str(pair[0]))
    first = own_passages(base, 20, 0, CPU, tmp_path, goes_on=lambda: False, quiet=True)
    assert 0 < len(first) <= sampled_text.BATCH
    assert f"there is time for {sampled_text.BATCH} of the 20 passages" in caplog.text
    assert own_passages(base, 20, 0, CPU, tmp_path, quiet=True) == first


@given(st.lists(st.integers(), min_size=1, max_size=9), st.lists(st.integers(), max_size=9))
def test_passages_are_spread_evenly(added, among):
    mixed = spread([f"added {n}" for n in added], [f"among {n}" for n in among])
    assert [one for one in mixed if one.startswith("added")] == [f"added {n}" for n in added]
    assert [one for one in mixed if one.startswith("among")] == [f"among {n}" for n in among]
    gaps = "".join(one[1] for one in mixed).strip("m").split("d")
    assert max(map(len, gaps)) - min(map(len, gaps[1:-1] or [""])) <= 1 + len(among) // len(added)


def test_heal_mixes_them_in(tied_pair, tmp_path, text_file, monkeypatch):
    seen = []
    monkeypatch.setattr(run_module, "spread", lambda own, text: (seen.append(own), [*own, *text])[1])
    record = healed(tied_pair, tmp_path / "out", text_file, steps=2, looks=1, own_passages=5).record
    assert 0 < len(seen[0]) <= 5
    assert record["options"]["own_passages"] == 5
