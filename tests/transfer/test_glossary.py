"""Glossaries: rows made of the user's texts, against a plain version; what is refused, and what is only warned of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.scripts import run_yaml
from tokenizers_zoo import RandomSpace, make_transfer, with_method
from transformers import AutoModelForCausalLM
from transplanting import EMBEDDINGS, tensors_of, transplant

import mergekit_tokenadapt as ta
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token
from mergekit_tokenadapt.transfer.glossary import Glossary, GlossaryLine
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan_files import load_plan, save_plan
from mergekit_tokenadapt.transfer.transfer import Transfer

Weights = dict[int, float]


def read(folder: Path, content: str | bytes, name: str = "glossary.tsv") -> Glossary:
    file = folder / name
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Glossary.read(str(file))


def glossary_of(*entries: tuple[str, str, float]) -> Glossary:
    return Glossary("g.tsv", "", tuple(GlossaryLine(n, *entry) for n, entry in enumerate(entries, start=1)))


def with_glossary(transfer: Transfer, glossary: Glossary) -> Transfer:
    return dataclasses.replace(transfer, glossary=glossary)


def a_transfer(zoo: Mapping[str, TokenizerFiles], **given: Any) -> Transfer:
    return make_transfer(zoo["byte-level"], zoo["gemma-style"], RandomSpace(seed=1), **given)


def named(transfer: Transfer, n: int) -> Token:
    """The n-th new token that a glossary can name by its text."""
    texts = [t for t in transfer.new_tokens if t.text and t.text.strip() and "\t" not in t.text and "\n" not in t.text]
    return texts[n]


def plain_row(transfer: Transfer, token: Token, texts: list[tuple[str, float]]) -> Weights:
    row: Weights = defaultdict(float)
    total = sum(weight for _, weight in texts)
    for text, weight in texts:
        begins_word = token.bytes.startswith(b" ") and not text.startswith(" ")
        (pieces,) = map(list, [transfer.segmenter.segment([((" " if begins_word else "") + text).encode()])[0]])
        for piece in pieces:
            row[int(piece)] += weight / total / len(pieces)
    return dict(row)


# --- rows ----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(0, 19),
            st.text("abcde stone river", min_size=1, max_size=9).filter(str.strip),
            st.floats(0.01, 100),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda entry: entry[:2],
    )
)
@settings(max_examples=40)
def test_rows_are_weighted_means_of_the_texts(
    zoo: Mapping[str, TokenizerFiles], entries: list[tuple[int, str, float]]
) -> None:
    plain = a_transfer(zoo)
    transfer = with_glossary(plain, glossary_of(*((named(plain, n).text or "", text, w) for n, text, w in entries)))
    plan = transfer.make_plan()
    texts: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for n, text, weight in entries:
        texts[named(plain, n).id].append((text, weight))
    assert plan.glossary_ids.tolist() == sorted(texts)
    for row, given_texts in texts.items():
        token = transfer.target.vocabulary.by_id[row]
        assert dict(plan.explain(row)) == pytest.approx(plain_row(transfer, token, given_texts), rel=1e-4)
    before = plain.make_plan()
    others = [t.id for t in plain.new_tokens if t.id not in texts]
    assert [plan.explain(i) for i in others] == [before.explain(i) for i in others]


def test_the_text_of_a_token_that_begins_a_word_begins_a_word(zoo: Mapping[str, TokenizerFiles]) -> None:
    plain = a_transfer(zoo)
    token = next(t for t in plain.new_tokens if t.bytes[:1] == b" " and t.bytes.strip().isalpha())
    rows = []
    for text in ("stone", " stone", "  stone"):
        plan = with_glossary(plain, glossary_of((token.text or "", text, 1.0))).make_plan()
        assert dict(plan.explain(token.id)) == pytest.approx(plain_row(plain, token, [(text, 1.0)]))
        rows.append(plan.explain(token.id))
    inside = plain.segmenter.segment([b"stone", b" stone"])
    assert inside[0].tolist() != inside[1].tolist()
    assert {i for i, _ in rows[0]} == {i for i, _ in rows[1]} == set(inside[1].tolist())
    assert rows[2] != rows[1]


@pytest.mark.parametrize(
    "name", ["mean", "hybrid", "calibrated", "adaptivocab", "beyond_initialization_loss", "random"]
)
def test_every_method_leaves_the_glossarys_rows_alone(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    plain = with_method(a_transfer(zoo), name)
    token = named(plain, 3)
    transfer = with_glossary(plain, glossary_of((token.text or "", "the old stone", 1.0)))
    plan = transfer.make_plan()
    old = torch.randn(plain.base_rows, 8, generator=torch.Generator().manual_seed(0))
    expected = sum(weight * old[i] for i, weight in plain_row(transfer, token, [("the old stone", 1.0)]).items())
    for use in MatrixUse:
        made = plan.apply(old, use=use).rows
        torch.testing.assert_close(made[token.id], expected)
    assert token.id not in transfer.new_ids
    assert len(plan.composed_ids) == len(plain.make_plan().composed_ids)


def test_a_special_token_without_counterpart_can_be_defined(zoo: Mapping[str, TokenizerFiles]) -> None:
    plain = a_transfer(zoo)
    special = zoo["gemma-style"].vocabulary.by_spelling["<start_of_turn>"]
    assert plain.mapping.reasons[special.id] == Reason.NEW
    plan = with_glossary(plain, glossary_of(("<start_of_turn>", "the river", 1.0))).make_plan()
    assert dict(plan.explain(special.id)) == pytest.approx(plain_row(plain, special, [("the river", 1.0)]))


def test_a_saved_plan_knows_the_glossarys_rows(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    plain = a_transfer(zoo)
    plan = with_glossary(plain, glossary_of((named(plain, 0).text or "", "stone", 1.0))).make_plan()
    save_plan(plan, tmp_path / "a.plan")
    loaded = load_plan(tmp_path / "a.plan")
    assert loaded.glossary_ids.tolist() == [named(plain, 0).id]
    save_plan(loaded, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_equal_vocabularies_need_no_glossary(
    zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    transfer = with_glossary(make_transfer(zoo["gemma-style"], zoo["gemma-style"]), glossary_of((" the", "stone", 1.0)))
    transfer.check()
    assert not len(transfer.make_plan().glossary_ids)
    assert transfer.glossary_record is None
    (said,) = caplog.messages
    assert "are about tokens that keep the row of a base token, and are left out; no line is about a new token" in said
    with pytest.raises(TokenAdaptError, match=r"none of the 1 lines of .* names a token"):
        with_glossary(transfer, glossary_of(("zqzqzq", "stone", 1.0))).check()


# --- files ---------------------------------------------------------------------------------------


def test_columns_and_json_say_the_same(tmp_path: Path) -> None:
    columns = read(tmp_path, " stone\ta piece of rock\n\r\n#\ta sign\t0.5\r\n")
    lines = [{"token": " stone", "text": "a piece of rock"}, {"token": "#", "text": "a sign", "weight": 0.5}]
    objects = read(tmp_path, "\n\n".join(map(json.dumps, lines)), "g.jsonl")
    assert columns.lines == (GlossaryLine(1, " stone", "a piece of rock", 1.0), GlossaryLine(3, "#", "a sign", 0.5))
    assert objects.lines == columns.lines
    assert columns.sha256 == hashlib.sha256((tmp_path / "glossary.tsv").read_bytes()).hexdigest()


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa\tb\n").lines == (GlossaryLine(1, "a", "b", 1.0),)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "g.tsv", "has no lines"),
        ("\n \n", "g.tsv", "has no lines"),
        ("a\tb\nc\n", "g.tsv", "line 2 has 1 columns"),
        ("a\tb\t1\t2", "g.tsv", "line 1 has 4 columns"),
        ("a\tb\theavy", "g.tsv", "line 1: the weight 'heavy' is no number"),
        ("a\tb\t0", "g.tsv", "line 1: the weight 0.0 is not a number above 0"),
        ("a\tb\t-1", "g.tsv", "line 1: the weight -1.0 is not"),
        ("a\tb\tnan", "g.tsv", "line 1: the weight nan is not"),
        ("a\tb\tinf", "g.tsv", "line 1: the weight inf is not"),
        ("a\t", "g.tsv", "line 1: the text is empty"),
        ("a\t  ", "g.tsv", "line 1: the text is empty"),
        ("\tb", "g.tsv", "line 1: the token is empty"),
        ("a\tb\nc\tgr\xfcn".encode("latin-1"), "g.tsv", r"line 2 is not UTF-8 \(byte 5 of the line\)"),
        ("a\tb".encode("utf-16"), "g.tsv", "line 1 is not UTF-8"),
        ("a\tb", "g.jsonl", "line 1 is not JSON"),
        ('["a", "b"]', "g.jsonl", "line 1 has other keys"),
        ('{"token": "a", "txt": "b"}', "g.jsonl", "line 1 has other keys"),
        ('{"token": "a", "text": 3}', "g.jsonl", "line 1: the text is empty or no string"),
        ('{"token": "a", "text": "b", "weight": true}', "g.jsonl", "line 1: the weight True is not"),
    ],
)
def test_a_malformed_file_is_one_error_with_the_line(
    content: str | bytes, name: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(TokenAdaptError, match=f"glossary: .*{says}") as caught:
        read(tmp_path, content, name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "none.tsv"):
        with pytest.raises(TokenAdaptError, match="is no file"):
            Glossary.read(str(name))


# --- what is reported ----------------------------------------------------------------------------


def test_unknown_kept_and_repeated_lines_are_warned_of(
    zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    plain = a_transfer(zoo)
    token = named(plain, 0).text or ""
    copied = plain.target.vocabulary.by_id[int(plain.mapping.ids(Reason.COPIED)[40])].spelling
    entries = [(token, "stone", 1.0), ("zqzqzq", "nothing", 1.0), (copied, "river", 1.0), (token, "stone", 1.0)]
    with caplog.at_level(logging.WARNING):
        plan = with_glossary(plain, glossary_of(*entries)).make_plan()
    assert plan.glossary_ids.tolist() == [named(plain, 0).id]
    said = "\n".join(caplog.messages)
    assert '1 of 4 lines name no token of the target and are left out: "zqzqzq" (line 2)' in said
    assert "1 of 4 lines are about tokens that keep the row of a base token" in said
    assert "1 of 4 lines repeat another one" in said
    assert "(line 4)" in said
    assert len(caplog.messages) == 3


def test_a_text_that_the_base_cannot_write_is_left_to_the_method(
    zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_transfer(zoo["wordpiece"], zoo["gemma-style"])
    token = named(plain, 0)
    with caplog.at_level(logging.WARNING):
        plan = with_glossary(plain, glossary_of((token.text or "", "漢", 1.0))).make_plan()
    assert "cannot be written in base tokens" in caplog.text
    assert not len(plan.glossary_ids)
    assert plan.explain(token.id) == plain.make_plan().explain(token.id)


def test_contradictions_are_refused(zoo: Mapping[str, TokenizerFiles]) -> None:
    plain = a_transfer(zoo, token_map={"<start_of_turn>": "begin"})
    token = named(plain, 0).text or ""
    for entries, says in [
        ([(token, "stone", 1.0), (token, "stone", 2.0)], "lines 1 and 2 give the same text of .* weights 1 and 2"),
        ([(token, "stone", 1.0), ("<start_of_turn>", "stone", 1.0)], "line 2: token_map gives .*a text as well"),
        ([("zqzqzq", "stone", 1.0)], "none of the 1 lines of g.tsv names a token"),
    ]:
        with pytest.raises(TokenAdaptError, match=f"glossary: .*{says}"):
            with_glossary(plain, glossary_of(*entries)).check()


# --- as a user meets it --------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder, zoo):
    """(base, target, glossary, id of its token, its row)."""
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    transfer = a_transfer(zoo)
    token = named(transfer, 2)
    glossary = tmp_path / "terms.tsv"
    glossary.write_text(f"{token.text}\tthe river\n{token.text}\tstone\t3\n", encoding="utf-8")
    weights = plain_row(transfer, token, [("the river", 1.0), ("stone", 3.0)])
    old = tensors_of(base)[EMBEDDINGS]
    return base, gemma_style_folder, glossary, token.id, sum(w * old[i] for i, w in weights.items())


def check_output(out: Path, files: Any) -> None:
    _, _, glossary, token, row = files
    torch.testing.assert_close(tensors_of(out)[EMBEDDINGS][token], row)
    manifest = json.loads((out / "tokenadapt.json").read_text())
    digest = hashlib.sha256(glossary.read_bytes()).hexdigest()
    assert manifest["glossary"] == {"source": str(glossary), "lines": 2, "sha256": digest}
    assert manifest["inputs"][0]["rows_from_glossary"] == 1


def test_in_a_recipe_of_stock_mergekit(files, tmp_path):
    base, target, glossary, *_ = files
    adapt = {"method": "hybrid", "glossary": str(glossary)}
    recipe = {
        "merge_method": "passthrough",
        "models": [{"model": str(base)}],
        "tokenizer": {"source": str(target), "adapt": adapt},
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(run_yaml.main, [str(tmp_path / "recipe.yml"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    check_output(tmp_path / "out", files)


def test_a_glossary_that_makes_no_row_is_not_recorded(files, tmp_path):
    base, _, glossary, *_ = files
    glossary.write_text(" the\tstone\n", encoding="utf-8")
    out = transplant(base, base, tmp_path / "out", method="mean", glossary=str(glossary))
    assert "glossary" not in json.loads((out / "tokenadapt.json").read_text())


def test_transplant_and_adapt_and_explain(files, tmp_path):
    base, target, glossary, token, row = files
    flags = ["--glossary", str(glossary)]
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["transplant", str(base), str(target), str(out), "--method", "mean", *flags])
    assert result.exit_code == 0, result.output
    check_output(out, files)
    model = AutoModelForCausalLM.from_pretrained(base)
    ta.adapt(model, str(base), str(target), method="mean", glossary=str(glossary), quiet=True)
    assert torch.equal(model.get_input_embeddings().weight.detach(), tensors_of(out)[EMBEDDINGS])
    torch.testing.assert_close(model.get_input_embeddings().weight[token].detach(), row)
    for method in ("mean", "calibrated"):
        asked = ["explain", str(base), str(target), "--id", str(token), "--method", method, *flags]
        shown = CliRunner().invoke(main, asked)
        assert shown.exit_code == 0, shown.output
        assert "new, made from the glossary\n" in shown.output
        assert "predicted" not in shown.output
    shown = CliRunner().invoke(main, [*asked, "--json", "--quiet"])
    assert json.loads(shown.output)[0]["method"] == "from the glossary"


def test_a_bad_glossary_ends_a_command_before_it_writes(files, tmp_path):
    base, target, glossary, *_ = files
    glossary.write_bytes(b"caf\xe9\tcoffee\n")
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["transplant", str(base), str(target), str(out), "--glossary", str(glossary)])
    assert result.exit_code == 2
    assert "line 1 is not UTF-8" in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_the_output_does_not_replace_the_glossary(files):
    base, target, glossary, *_ = files
    with pytest.raises(TokenAdaptError, match="which is read"):
        transplant(base, target, glossary, glossary=str(glossary), force=True)
