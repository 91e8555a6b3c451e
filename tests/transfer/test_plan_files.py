"""Plans in files: written, read, and refused where something is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers_zoo
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_plans import plan_between, plan_of, random_tensor
from tokenizers_zoo import make_transfer
from torch import Tensor

from mergekit_tokenadapt.auxiliary.ngram import NgramSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import FORMAT, load_plan, save_plan


def assert_same_plan(one: TransferPlan, other: TransferPlan) -> None:
    np.testing.assert_array_equal(one.mapping.reasons, other.mapping.reasons)
    np.testing.assert_array_equal(one.mapping.sources, other.mapping.sources)
    assert one.mapping.texts == other.mapping.texts
    assert one.mapping.is_identity == other.mapping.is_identity
    assert (one.method, dict(one.options)) == (other.method, dict(other.options))
    assert torch.equal(one.composed_ids, other.composed_ids)
    for name in ("indptr", "ids", "weights"):
        mine, others = getattr(one.composition, name), getattr(other.composition, name)
        assert mine.dtype == others.dtype
        assert torch.equal(mine, others)


@pytest.mark.parametrize(
    "case",
    ["hybrid", "mean with texts", "identity", "nothing new", "only from texts"],
    ids=lambda c: c.replace(" ", "-"),
)
def test_a_saved_plan_comes_back_equal(
    case: str, zoo: Mapping[str, TokenizerFiles], plan: TransferPlan, tmp_path: Path
) -> None:
    bytes_, gemma = zoo["byte-level"], zoo["gemma-style"]
    plans = {
        "hybrid": lambda: plan_between(bytes_, gemma),
        "mean with texts": lambda: plan,
        "identity": lambda: plan_between(gemma, gemma),
        "nothing new": lambda: plan_between(gemma, gemma, num_rows=700),
        "only from texts": lambda: plan_between(gemma, gemma, token_map={"<mask>": "the ▁ mask"}),
    }
    made = plans[case]()
    save_plan(made, tmp_path / "a.plan")
    loaded = load_plan(tmp_path / "a.plan")
    assert_same_plan(made, loaded)
    old = random_tensor(700, 3)
    assert torch.equal(made.apply(old).rows, loaded.apply(old).rows)
    save_plan(loaded, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_the_same_inputs_give_the_same_file(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    base, target = zoo["sentencepiece-bpe"], zoo["byte-level"]
    for n in range(2):
        shuffled = tokenizers_zoo.shuffled_entries(dict(base.definition), seed=n)
        vocabulary = Vocabulary.from_definition(shuffled, base.role_tokens)
        save_plan(plan_of(make_transfer((shuffled, vocabulary), target, NgramSpace())), tmp_path / f"{n}.plan")
    assert (tmp_path / "0.plan").read_bytes() == (tmp_path / "1.plan").read_bytes()


def test_the_file_is_safetensors_and_says_what_it_is(plan: TransferPlan, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "a.plan")
    assert set(load_file(tmp_path / "a.plan")) == {
        "reasons",
        "sources",
        "composed_ids",
        "indptr",
        "ids",
        "weights",
        "unreachable_ids",
    }
    assert FORMAT.encode() in (tmp_path / "a.plan").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\x00" * 100, b"\xff" * 100, b'{"model": "a JSON file"}', b"kein Plan, sondern ein Text" * 9],
    ids=["empty", "tiny", "zeros", "ones", "json", "text"],
)
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(content)
    with pytest.raises(TokenAdaptError, match=r"a\.plan is not a transfer plan"):
        load_plan(tmp_path / "a.plan")


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.999])
def test_a_truncated_plan_is_refused(share: float, plan: TransferPlan, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "a.plan")
    content = (tmp_path / "a.plan").read_bytes()
    (tmp_path / "a.plan").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
        load_plan(tmp_path / "a.plan")


def test_a_missing_plan_and_a_folder_are_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "none.plan", tmp_path):
        with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
            load_plan(file)


@pytest.mark.parametrize(
    "header",
    [None, "not JSON", "{}", "[]", "null", '"text"', json.dumps({"format": FORMAT})],
    ids=["none", "not json", "empty", "list", "null", "string", "incomplete"],
)
def test_a_wrong_header_is_refused(header: str | None, plan: TransferPlan, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "good.plan")
    tensors = load_file(tmp_path / "good.plan")
    save_file(tensors, tmp_path / "a.plan", metadata=None if header is None else {"plan": header})
    with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
        load_plan(tmp_path / "a.plan")


def test_a_plan_of_another_version_says_so(plan: TransferPlan, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "good.plan")
    header = json.dumps({"format": "mergekit-tokenadapt plan 99"})
    save_file(load_file(tmp_path / "good.plan"), tmp_path / "a.plan", metadata={"plan": header})
    message = r"a\.plan is a plan of another version: 'mergekit-tokenadapt plan 99', not '[^']+'$"
    with pytest.raises(TokenAdaptError, match=message) as caught:
        load_plan(tmp_path / "a.plan")
    assert "is not a transfer plan" not in str(caught.value)


@pytest.mark.parametrize(
    "missing", ["reasons", "sources", "composed_ids", "indptr", "ids", "weights", "unreachable_ids"]
)
def test_a_plan_without_one_of_its_tensors_is_refused(missing: str, plan: TransferPlan, tmp_path: Path) -> None:
    def leave_out(tensors: dict[str, Tensor]) -> None:
        del tensors[missing]

    with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
        load_plan(changed_plan(plan, tmp_path, leave_out))


def changed_plan(plan: TransferPlan, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """The file of a plan with other tensors and the same header."""
    save_plan(plan, folder / "good.plan")
    with safe_open(folder / "good.plan", framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(folder / "good.plan")
    change(tensors)
    save_file(tensors, folder / "a.plan", metadata=metadata)
    return folder / "a.plan"


def with_last(tensor: Tensor, value: int) -> Tensor:
    return torch.cat([tensor[:-1], torch.tensor([value], dtype=tensor.dtype)])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reasons", lambda t: t.long()),
        ("reasons", lambda t: t[:-1].contiguous()),
        ("reasons", lambda t: t[:, None].contiguous()),
        ("reasons", lambda t: with_last(t, 99)),
        ("sources", lambda t: t.int()),
        ("sources", lambda t: t[:-1].contiguous()),
        ("sources", lambda t: with_last(t, -2)),
        ("composed_ids", lambda t: t[:-1].contiguous()),
        ("composed_ids", lambda t: t.int()),
        ("composed_ids", lambda t: t[:, None].contiguous()),
        ("composed_ids", lambda t: with_last(t, 610)),
        ("composed_ids", lambda t: with_last(t, -1)),
        ("unreachable_ids", lambda t: torch.tensor([610])),
        ("unreachable_ids", lambda t: torch.tensor([-1])),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    name: str, change: Callable[[Tensor], Tensor], plan: TransferPlan, tmp_path: Path
) -> None:
    """Where the file is read, and not by an index error in the middle of a matrix."""
    assert plan.num_rows == 610
    file = changed_plan(plan, tmp_path, lambda tensors: tensors.update({name: change(tensors[name])}))
    with pytest.raises(TokenAdaptError, match=r"is not a transfer plan: .*(together|unknown|beyond)"):
        load_plan(file)


def test_the_last_row_may_be_muted(plan: TransferPlan, tmp_path: Path) -> None:
    file = changed_plan(plan, tmp_path, lambda tensors: tensors.update(unreachable_ids=torch.tensor([609])))
    assert load_plan(file).counts()["unreachable"] == 1


def test_the_order_of_the_token_map_changes_no_byte(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    texts = {"<|im_start|>": "the river", "<|im_end|>": "a mill", "<tool>": "old"}
    for n, token_map in enumerate((texts, dict(reversed(texts.items())))):
        save_plan(plan_between(zoo["unigram"], zoo["byte-level"], "mean", token_map=token_map), tmp_path / f"{n}.plan")
    assert (tmp_path / "0.plan").read_bytes() == (tmp_path / "1.plan").read_bytes()
