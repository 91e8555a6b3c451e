"""Methods that weigh pieces by their place, and methods whose input and output rows differ; against plain versions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median_low

import pytest
import torch
from click.testing import CliRunner
from tokenizers_zoo import BYTE_LEVEL, make_transfer, plain_definition, with_method
from torch import Tensor
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.scripts import script_of
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan, save_plan
from mergekit_tokenadapt.transfer.transfer import Transfer

PAIRS = [("byte-level", "gemma-style"), ("unigram", "byte-level"), ("sentencepiece-bpe", "wordpiece")]
POSITION = ("adaptivocab", "transplant_vocab", "eeve", "beyond_initialization_loss")
Row = list[float]

pairs = pytest.mark.parametrize(("base", "target"), PAIRS, ids=["->".join(pair) for pair in PAIRS])


def old_matrix(rows: int) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(1)) + 0.3


# --- the equations, plain ------------------------------------------------------------------------


def weighted(old: Tensor, pieces: list[int], weights: list[float]) -> Row:
    total = sum(weights)
    return [sum(w * float(old[p, d]) for p, w in zip(pieces, weights, strict=True)) / total for d in range(5)]


def plain_adaptivocab(old: Tensor, pieces: list[int], use: str, rate: float) -> Row:
    sign = 1 if use == "input" else -1
    return weighted(old, pieces, [math.exp(sign * rate * i) for i in range(1, len(pieces) + 1)])


def plain_transplant_vocab(old: Tensor, pieces: list[int], use: str, decay: float) -> Row:
    if use == "input":
        return weighted(old, pieces[-1:], [1])
    weights = [1.0]
    for _ in pieces[1:]:
        weights.append(weights[-1] * decay)
    return weighted(old, pieces, weights)


def plain_eeve(old: Tensor, pieces: list[int], use: str) -> Row:
    return weighted(old, pieces, [1] * len(pieces)) if use == "input" else weighted(old, pieces[:1], [1])


def plain_beyond(transfer: Transfer, old: Tensor, n: int, use: str) -> Row:
    pieces, tokens = transfer.pieces[n].tolist(), transfer.base.vocabulary.by_id
    if use == "output":
        lengths = [max(1, len(tokens[p].bytes.decode("utf-8", "replace"))) for p in pieces]
        return weighted(old, pieces, lengths)
    mean = weighted(old, pieces, [1] * len(pieces))
    text = [t for t in transfer.base.vocabulary if t.kind is not TokenKind.SPECIAL]
    alike = [t for t in text if script_of(t) == script_of(transfer.new_tokens[n])] or text
    usual = median_low(math.hypot(*old[t.id].tolist()) for t in alike)
    return [x * usual / math.hypot(*mean) for x in mean]


def check(
    transfer: Transfer,
    plan: TransferPlan,
    old: Tensor,
    expected: Callable[[int, str], Row],
    input_part: Callable[[int], Row] | None = None,
) -> None:
    """Compare input, output and tied rows with the expected ones: `expected` takes a place and a use.

    A tied row is the mean of the output row and the input row, or of `input_part` in its place.
    """
    made = {use: plan.apply(old, use=MatrixUse(use)).rows for use in ("input", "output", "tied")}
    checked = 0
    for n, token in enumerate(transfer.new_tokens):
        if not len(transfer.pieces[n]):
            assert token.id in plan.mean_ids
            continue
        one, other = expected(n, "input"), expected(n, "output")
        part = one if input_part is None else input_part(n)
        mean = [(x + y) / 2 for x, y in zip(part, other, strict=True)]
        for use, row in (("input", one), ("output", other), ("tied", mean)):
            assert made[use][token.id].tolist() == pytest.approx(row, rel=1e-4, abs=1e-4), (token, use)
        checked += len(transfer.pieces[n]) > 1
    assert checked > 10


@pairs
@pytest.mark.parametrize("rate", [0.0, math.log(2), 2.0])
def test_adaptivocab_follows_its_equations(
    base: str, target: str, rate: float, zoo: Mapping[str, TokenizerFiles]
) -> None:
    transfer = with_method(make_transfer(zoo[base], zoo[target]), "adaptivocab", rate=rate)
    old, pieces = old_matrix(transfer.base_rows), transfer.pieces
    check(transfer, transfer.make_plan(), old, lambda n, use: plain_adaptivocab(old, pieces[n].tolist(), use, rate))


@pairs
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_transplant_vocab_follows_its_equations(
    base: str, target: str, decay: float, zoo: Mapping[str, TokenizerFiles]
) -> None:
    transfer = with_method(make_transfer(zoo[base], zoo[target]), "transplant_vocab", decay=decay)
    old, pieces = old_matrix(transfer.base_rows), transfer.pieces
    check(
        transfer, transfer.make_plan(), old, lambda n, use: plain_transplant_vocab(old, pieces[n].tolist(), use, decay)
    )


@pairs
def test_eeve_follows_its_equations(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = with_method(make_transfer(zoo[base], zoo[target]), "eeve")
    old, pieces = old_matrix(transfer.base_rows), transfer.pieces
    check(transfer, transfer.make_plan(), old, lambda n, use: plain_eeve(old, pieces[n].tolist(), use))


@pairs
def test_beyond_initialization_loss_follows_its_equations(
    base: str, target: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    transfer = with_method(make_transfer(zoo[base], zoo[target]), "beyond_initialization_loss")
    old, pieces = old_matrix(transfer.base_rows), transfer.pieces
    check(
        transfer,
        transfer.make_plan(),
        old,
        lambda n, use: plain_beyond(transfer, old, n, use),
        lambda n: weighted(old, pieces[n].tolist(), [1] * len(pieces[n])),
    )


def test_a_worked_example_of_adaptivocab(zoo: Mapping[str, TokenizerFiles]) -> None:
    """Two pieces: the weights are e^2 / (1 + e^2) = 0.8808 and the rest."""
    transfer = with_method(make_transfer(zoo["byte-level"], zoo["gemma-style"]), "adaptivocab")
    plan = transfer.make_plan()
    n = next(n for n, ids in enumerate(map(transfer.pieces.__getitem__, range(len(transfer.pieces)))) if len(ids) == 2)
    start, end = transfer.pieces[n].tolist()
    row = transfer.new_tokens[n].id
    assert dict(plan.explain(row)) == pytest.approx({end: 0.880797, start: 0.119203}, abs=1e-6)
    assert dict(plan.explain(row, MatrixUse.OUTPUT)) == pytest.approx({start: 0.880797, end: 0.119203}, abs=1e-6)


def test_the_largest_rate_gives_the_last_and_the_first_piece(zoo: Mapping[str, TokenizerFiles]) -> None:
    """And no overflow: exp(100 i) is far beyond the largest number for the longest tokens."""
    transfer = with_method(make_transfer(zoo["byte-level"], zoo["gemma-style"]), "adaptivocab", rate=100.0)
    plan = transfer.make_plan()
    old = old_matrix(transfer.base_rows)
    check(transfer, plan, old, lambda n, use: old[transfer.pieces[n][-1 if use == "input" else 0]].tolist())


# --- files, and what a user sees -----------------------------------------------------------------


@pytest.mark.parametrize("name", POSITION)
def test_a_saved_plan_makes_the_same_rows(name: str, zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    given = {"token_map": {"<mask>": "the ▁ mask"}}  # a composed row that no method makes
    plan = with_method(make_transfer(zoo["byte-level"], zoo["gemma-style"], **given), name).make_plan()
    save_plan(plan, tmp_path / "a.plan")
    loaded = load_plan(tmp_path / "a.plan")
    old = old_matrix(700)
    for use in MatrixUse:
        assert torch.equal(plan.apply(old, use=use).rows, loaded.apply(old, use=use).rows)
    save_plan(loaded, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_a_damaged_file_is_refused(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    plan = with_method(make_transfer(zoo["byte-level"], zoo["gemma-style"]), "beyond_initialization_loss").make_plan()
    norms, output = plan.input_norms, plan.output_composition
    assert norms is not None
    assert output is not None
    for damaged, says in [
        ({"output_composition": output.select(torch.arange(3))}, "do not fit the rows"),
        ({"input_norms": norms.select(torch.arange(3))}, "do not fit the rows"),
        ({"input_norms": replace(norms, groups=norms.groups + 100)}, "unknown groups"),
        ({"input_norms": replace(norms, members=norms.members[:-1])}, "do not fit together"),
    ]:
        save_plan(replace(plan, **damaged), tmp_path / "bad.plan")
        with pytest.raises(TokenAdaptError, match=f"not a transfer plan: .*{says}"):
            load_plan(tmp_path / "bad.plan")


def test_rows_of_a_text_keep_the_mean_of_their_pieces(zoo: Mapping[str, TokenizerFiles]) -> None:
    """`token_map: {NEW: text}` is no business of the method: neither weights nor norms of it apply."""
    plain, other = (
        with_method(
            make_transfer(zoo["byte-level"], zoo["gemma-style"], token_map={"<mask>": "the mask"}), name
        ).make_plan()
        for name in ("mean", "beyond_initialization_loss")
    )
    (row,) = plain.mapping.texts
    old = old_matrix(700)
    for use in MatrixUse:
        assert torch.equal(plain.apply(old, use=use).rows[row], other.apply(old, use=use).rows[row])


@pytest.mark.parametrize("name", POSITION)
@pytest.mark.parametrize("kind", ["tied", "untied", "untie"])
def test_a_model_gets_these_rows(name, kind, tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=kind != "untied")
    options = {"untie": True} if kind == "untie" else {}
    out = transplant(base, gemma_style_folder, tmp_path / "out", method=name, **options)
    plan, old, new = load_plan(out / "tokenadapt.plan"), tensors_of(base), tensors_of(out)
    uses = {EMBEDDINGS: "tied"} if kind == "tied" else {EMBEDDINGS: "input", HEAD: "output"}
    assert (HEAD in new) == (kind != "tied")
    for tensor, use in uses.items():
        source = old.get(tensor, old[EMBEDDINGS])
        assert torch.equal(new[tensor], plan.apply(source, use=MatrixUse(use)).rows), tensor
    if kind == "untie":
        assert not torch.equal(new[EMBEDDINGS], new[HEAD])


def test_explain_shows_input_and_output_weights(byte_level_folder, gemma_style_folder, zoo):
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
    token = next(t for n, t in enumerate(transfer.new_tokens) if len(transfer.pieces[n]) == 2)
    command = ["explain", str(byte_level_folder), str(gemma_style_folder), "--id", str(token.id), "--method"]
    shown = CliRunner().invoke(main, [*command, "adaptivocab"]).output
    assert "weight of the old row in an input matrix\n   0.8808" in shown
    assert "weight of the old row in an output matrix; a tied matrix has the mean of both rows\n   0.8808" in shown
    assert "output matrix" not in CliRunner().invoke(main, [*command, "mean"]).output


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("adaptivocab", "rate", -1),
        ("adaptivocab", "rate", 101),
        ("transplant_vocab", "decay", 1.5),
        ("transplant_vocab", "decay", -0.5),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, key: str, value: float) -> None:
    with pytest.raises(TokenAdaptError, match=f"method '{name}': {key}: .*not {value!r}"):
        find_method(name, {key: value})


def test_a_script_that_the_base_lacks_gets_the_median_of_all() -> None:
    definition = plain_definition(["a", "b", "7"], decoder=BYTE_LEVEL)
    target = Vocabulary.from_definition(plain_definition(["я", "ab", "77"], decoder=None))
    transfer = make_transfer((definition, Vocabulary.from_definition(definition)), target)
    norms = find_method("beyond_initialization_loss", {}).input_norms(transfer)
    assert norms is not None
    members = {
        token.text: norms.members[norms.indptr[group] : norms.indptr[group + 1]].tolist()
        for token, group in zip(transfer.new_tokens, norms.groups.tolist(), strict=True)
    }
    assert members == {"я": [0, 1, 2], "ab": [0, 1], "77": [2]}
