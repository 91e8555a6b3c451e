"""The method `wechsel` against a slow, plain version of its equations."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import make_transfer, with_method
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.auxiliary.word_vectors import open_word_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.dictionary import read_dictionary, rotation
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.methods.wechsel import Wechsel
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan_files import load_plan

BASE = ["the", "river", "mill", "bread", "sea", "stone", "walking", "baking", "Monday", "three", "one", "mat"]
TARGET = ["der", "Fluss", "Mühle", "Brot", "See", "Stein", "Brücke", "Wasser", "Wind", "kühler", "stones", "walks"]
DIMENSIONS = 6


def vectors_of(words: Sequence[str], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(words), DIMENSIONS)).astype(np.float32)


def write(file: Path, words: Sequence[str], vectors: np.ndarray) -> str:
    lines = [f"{len(words)} {vectors.shape[1]}"]
    lines += [f"{word} {' '.join(map(repr, vector.tolist()))}" for word, vector in zip(words, vectors, strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {
        "base_vectors": write(tmp_path / "base.vec", BASE, vectors_of(BASE, 0)),
        "target_vectors": write(tmp_path / "target.vec", TARGET, vectors_of(TARGET, 1)),
    }


@pytest.fixture
def dictionary(tmp_path: Path) -> str:
    file = tmp_path / "dictionary.tsv"
    file.write_text("River\tfluss\nmill\tMühle\n\nbread\tBrot\nsea\tSee\nno\tnein\nstone\tstein\n", encoding="utf-8")
    return str(file)


# --- the equations, plain ------------------------------------------------------------------------


def plain_tokens(words: Sequence[str], vectors: np.ndarray, tokenizer: TokenizerFiles) -> dict[int, np.ndarray]:
    segmenter = Segmenter(tokenizer.definition, tokenizer.vocabulary)
    found: dict[int, list[tuple[float, np.ndarray]]] = {}
    for place, (word, vector) in enumerate(zip(words, vectors, strict=True), start=1):
        for form in (word, f" {word}"):
            for i in set(segmenter.segment([form.encode()]).ids.tolist()):
                found.setdefault(i, []).append((1 / place, vector.astype(np.float64)))
    return {i: sum(f * v for f, v in pairs) / sum(f for f, _ in pairs) for i, pairs in found.items()}


def plain_rotation(base: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The orthogonal matrix R with the smallest |base R - target|: from the singular vectors of base^T target."""
    left, _, right = np.linalg.svd(base.T.astype(np.float64) @ target.astype(np.float64))
    return left @ right


def plain_cosines(new: np.ndarray, old: Mapping[int, np.ndarray]) -> dict[int, float]:
    return {i: float(new @ v / np.linalg.norm(new) / np.linalg.norm(v)) for i, v in old.items()}


def check_row(row: Mapping[int, float], cosines: Mapping[int, float], k: int, temperature: float) -> None:
    """The row has the k nearest tokens, of which equally near ones may stand for each other, with softmax's weights."""
    nearest = sorted(cosines.values(), reverse=True)[:k]
    assert sorted((cosines[i] for i in row), reverse=True) == pytest.approx(nearest, abs=1e-5)
    exponentials = {i: math.exp(cosines[i] / temperature) for i in row}
    assert row == pytest.approx({i: e / sum(exponentials.values()) for i, e in exponentials.items()}, abs=1e-4)


def known_pairs(vectors: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All pairs that the dictionary of the fixture gives: any case of one word with any case of the other."""
    lines = [
        ("River", "fluss"),
        ("mill", "Mühle"),
        ("bread", "Brot"),
        ("sea", "See"),
        ("no", "nein"),
        ("stone", "stein"),
    ]
    left, right = [], []
    for one, other in lines:
        for a, b in itertools.product((one, one.lower(), one.title()), (other, other.lower(), other.title())):
            if a in BASE and b in TARGET:
                left.append(vectors[0][BASE.index(a)])
                right.append(vectors[1][TARGET.index(b)])
    return np.array(left), np.array(right)


@pytest.mark.parametrize(("base", "target"), [("wordpiece", "byte-level"), ("unigram", "gemma-style")])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("options", [{}, {"top_k": 3, "temperature": 0.5}])
def test_rows_are_those_of_the_equations(
    base: str,
    target: str,
    aligned: bool,
    options: dict[str, float],
    zoo: Mapping[str, TokenizerFiles],
    files: dict[str, str],
    dictionary: str,
) -> None:
    given = files | options | ({} if aligned else {"dictionary": dictionary})
    transfer = with_method(make_transfer(zoo[base], zoo[target]), "wechsel", **given)
    made = transfer.method.weigh(transfer)
    vectors = vectors_of(BASE, 0), vectors_of(TARGET, 1)
    turned = np.eye(DIMENSIONS) if aligned else plain_rotation(*known_pairs(vectors))
    usable = {t.id for t in transfer.candidates}
    old = {i: v @ turned for i, v in plain_tokens(BASE, vectors[0], zoo[base]).items() if i in usable}
    new = plain_tokens(TARGET, vectors[1], zoo[target])
    checked = 0
    for n, token in enumerate(transfer.new_tokens):
        if token.id not in new:
            assert not made.row(n)
            continue
        k, temperature = int(options.get("top_k", 10)), options.get("temperature", 0.1)
        check_row(dict(made.row(n)), plain_cosines(new[token.id], old), k, temperature)
        checked += 1
    assert checked > 5


@given(st.integers(0, 1000))
def test_a_rotation_is_found_again(seed: int) -> None:
    generator = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(generator.normal(size=(DIMENSIONS, DIMENSIONS)))
    vectors = generator.normal(size=(20, DIMENSIONS))
    found = plain_rotation(vectors, vectors @ turned)
    np.testing.assert_allclose(found, turned, atol=1e-6)


def test_vectors_of_one_space_that_was_turned_give_the_rows_of_that_space(
    zoo: Mapping[str, TokenizerFiles], tmp_path: Path
) -> None:
    """A dictionary undoes any rotation of the target's vectors."""
    words = sorted({*BASE, *TARGET})
    vectors = vectors_of(words, 2)
    turned, _ = np.linalg.qr(vectors_of(words, 3)[:DIMENSIONS])
    plain = write(tmp_path / "plain.vec", words, vectors)
    other = write(tmp_path / "turned.vec", words, (vectors @ turned).astype(np.float32))
    dictionary = tmp_path / "same.txt"
    dictionary.write_text("".join(f"{word} {word}\n" for word in words))
    transfer = make_transfer(zoo["wordpiece"], zoo["byte-level"])
    one = with_method(transfer, "wechsel", base_vectors=plain, target_vectors=plain)
    two = with_method(transfer, "wechsel", base_vectors=plain, target_vectors=other, dictionary=str(dictionary))
    left, right = one.method.weigh(one), two.method.weigh(two)
    for n in range(len(transfer.new_tokens)):
        assert dict(left.row(n)) == pytest.approx(dict(right.row(n)), rel=1e-3, abs=1e-5)


def test_the_alignment_is_that_of_the_equation(files: dict[str, str], dictionary: str, caplog) -> None:
    words = [open_word_vectors(files[name]) for name in ("base_vectors", "target_vectors")]
    made = rotation(*words, read_dictionary(dictionary))
    pairs = known_pairs((vectors_of(BASE, 0), vectors_of(TARGET, 1)))
    np.testing.assert_allclose(made, plain_rotation(*pairs), atol=1e-6)
    np.testing.assert_allclose(made @ made.T, np.eye(DIMENSIONS), atol=1e-9)


def test_too_few_pairs_are_warned_of(files: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [open_word_vectors(files[name]) for name in ("base_vectors", "target_vectors")]
    rotation(*words, [("the", "der")])
    assert "fewer than the 6 dimensions: the alignment is a guess" in caplog.text


# --- tokens without a vector ---------------------------------------------------------------------


def test_tokens_without_a_vector_are_drawn(zoo: Mapping[str, TokenizerFiles], files: dict[str, str]) -> None:
    transfer = with_method(make_transfer(zoo["wordpiece"], zoo["byte-level"]), "wechsel", **files)
    plan = transfer.make_plan()
    known = plain_tokens(TARGET, vectors_of(TARGET, 1), zoo["byte-level"])
    unknown = [t.id for t in transfer.new_tokens if t.id not in known]
    assert len(unknown) > 20
    assert plan.drawn is not None
    assert plan.drawn.new_ids.tolist() == unknown
    old = torch.randn(zoo["wordpiece"].vocabulary.num_ids, 400) * torch.arange(1, 401) + torch.arange(400) * 10
    made = plan.apply(old, use=MatrixUse.INPUT).rows
    usable = old[[t.id for t in transfer.candidates]]
    # Each number lies where the old numbers of its column lie, and all together have their spread.
    scaled = (made[unknown] - usable.mean(0)) / usable.std(0, correction=0)
    assert abs(float(scaled.mean())) < 0.1
    assert abs(float(scaled.std()) - 1) < 0.1
    assert torch.equal(made[unknown], transfer.make_plan().apply(old, use=MatrixUse.INPUT).rows[unknown])
    other = with_method(transfer, "wechsel", seed=1, **files).make_plan().apply(old, use=MatrixUse.INPUT).rows
    assert not torch.equal(made[unknown], other[unknown])
    assert torch.equal(made[list(known)], other[list(known)])


def test_or_they_are_the_mean_of_their_pieces(zoo: Mapping[str, TokenizerFiles], files: dict[str, str]) -> None:
    transfer = make_transfer(zoo["wordpiece"], zoo["byte-level"])
    drawing, mean = with_method(transfer, "wechsel", **files), with_method(transfer, "mean")
    transfer = with_method(transfer, "wechsel", rare="mean", **files)
    plan = transfer.make_plan()
    assert plan.drawn is None
    found, pieces, made = (t.method.weigh(t) for t in (drawing, mean, transfer))
    for n in range(len(transfer.new_tokens)):
        assert dict(made.row(n)) == pytest.approx(dict(found.row(n) or pieces.row(n)))


# --- as a user meets it --------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, wordpiece_folder, tiny_model_folder):
    return tiny_model_folder(wordpiece_folder, tmp_path / "base")


def flags(options: Mapping[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("-O", f"{name}={value}")]


def test_a_model_gets_these_rows(model, tmp_path, byte_level_folder, files, dictionary):
    out = transplant(model, byte_level_folder, tmp_path / "out", method="wechsel", dictionary=dictionary, **files)
    plan = load_plan(out / "tokenadapt.plan")
    assert torch.equal(tensors_of(out)[EMBEDDINGS], plan.apply(tensors_of(model)[EMBEDDINGS], use=MatrixUse.TIED).rows)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    assert manifest["method_files"].keys() == {"base_vectors", "target_vectors", "dictionary"}
    assert manifest["inputs"][0]["rows_drawn"] == len(plan.drawn.new_ids) > 0


def test_the_report_counts_drawn_rows(model, tmp_path, byte_level_folder, files):
    command = ["transplant", str(model), str(byte_level_folder), str(tmp_path / "out"), "--method", "wechsel"]
    result = CliRunner().invoke(main, [*command, *flags(files)])
    assert result.exit_code == 0, result.output
    assert "drawn at random" in result.output


def test_explain_tells_drawn_rows_from_combined_ones(model, byte_level_folder, files, zoo):
    transfer = with_method(make_transfer(zoo["wordpiece"], zoo["byte-level"]), "wechsel", **files)
    counts = transfer.method.weigh(transfer).counts
    drawn, combined = (int(transfer.new_ids[int(np.flatnonzero(wanted)[0])]) for wanted in (counts == 0, counts > 0))
    command = ["explain", str(model), str(byte_level_folder), "--method", "wechsel", *flags(files)]
    result = CliRunner().invoke(main, [*command, "--id", str(drawn), "--id", str(combined)])
    assert result.exit_code == 0, result.output
    first, second = result.output.split(f"(id {combined})")
    assert "the row is random, because the token has no vector" in first
    assert "the row is the sum of these old rows" in second


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_vectors": "./no.vec"}, "'./no.vec' is no file"),
        ({"target_vectors": "wide.vec"}, "vectors of 6 dimensions, and .*wide.vec of 7: they must be equal"),
        ({"target_vectors": "bad.vec"}, "bad.vec', line 2: 1 numbers after the word, not 6"),
        ({"dictionary": "./no.tsv"}, "dictionary: './no.tsv' cannot be read: No such file"),
        ({"dictionary": "empty.tsv"}, "empty.tsv' has no lines"),
        ({"dictionary": "three.tsv"}, "three.tsv', line 2: write a word of the base model's language, a tab"),
        ({"dictionary": "one.tsv"}, "one.tsv', line 1: write a word"),
        ({"dictionary": "latin.tsv"}, "latin.tsv', line 2: not UTF-8"),
        ({"dictionary": "swapped.tsv"}, "none of its 2 pairs .* are the languages swapped"),
        ({"words": "0"}, "words: takes"),
        ({"temperature": "0"}, "temperature: takes"),
        ({"rare": "zero"}, "rare: takes"),
    ],
)
def test_bad_input_is_one_line(options, says, model, tmp_path, byte_level_folder, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wide.vec", TARGET, np.ones((len(TARGET), 7)))
    (tmp_path / "bad.vec").write_text("3 6\na 1\nb 1\nc 1\n")
    (tmp_path / "empty.tsv").write_text("\n")
    (tmp_path / "three.tsv").write_text("river\tFluss\nmill\tMühle\tx\n")
    (tmp_path / "one.tsv").write_text("river\n")
    (tmp_path / "latin.tsv").write_bytes("river\tFluss\nmill\tMühle\n".encode("latin-1"))
    (tmp_path / "swapped.tsv").write_text("Fluss\triver\nStein\tstone\n")
    out = tmp_path / "out" / "model"
    command = ["transplant", str(model), str(byte_level_folder), str(out), "--method", "wechsel"]
    result = CliRunner().invoke(main, [*command, *flags(files | options)])
    assert result.exit_code == 2, result.output
    *_, last = result.output.strip().splitlines()
    assert last.startswith("Error: ")
    assert re.search(says, last), last
    assert not out.exists()


def test_a_missing_option_is_named() -> None:
    with pytest.raises(TokenAdaptError, match="base_vectors is missing"):
        find_method("wechsel", {"target_vectors": "a.vec"})


def test_too_many_neighbours_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(TokenAdaptError, match=r"top_k: 500 neighbours .* 400 tokens"):
        Wechsel(top_k=500, **files).check(400)
