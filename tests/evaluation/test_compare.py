"""`compare`: invariances, accounting, hard cases, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from click.testing import Result
from scored_texts import DOCUMENTS, SHORT, TEXT

from mergekit_tokenadapt.evaluation.compare import compare
from mergekit_tokenadapt.models.documents import score_documents
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

Run = Callable[..., Result]


def test_bits_per_byte_do_not_change_with_a_permutation_of_ids(base: Path, tmp_path: Path) -> None:
    shuffled = tiny_models.permuted(base, tmp_path / "shuffled")
    result = compare([open_model(str(base)), open_model(str(shuffled))], [TEXT], SHORT)
    first, second = (m["all"]["bits_per_byte"] for m in result["models"])
    assert first == pytest.approx(second, abs=1e-4)
    assert load_tokenizer(str(shuffled)).vocabulary.tokens != load_tokenizer(str(base)).vocabulary.tokens


def test_token_losses_of_a_document_add_up(base: Path, out: Path) -> None:
    result = compare([open_model(str(base)), open_model(str(out))], [TEXT], SHORT)
    for model in result["models"]:
        scorer = Scorer(load_model(open_model(model["name"])), 32, 16)
        documents = score_documents(scorer, load_tokenizer(model["name"]), DOCUMENTS)
        total = sum(float(d.losses.sum()) for d in documents) / math.log(2)
        assert model["all"]["bits_per_byte"] * TEXT.num_bytes == pytest.approx(total, rel=1e-9)
    # and the excess of the classes is the whole difference
    other = result["models"][1]
    excess = sum(share["excess_bits_per_byte"] for share in other["loss_shares"].values())
    assert excess == pytest.approx(other["all"]["difference"], abs=1e-9)
    for column in ("tokens", "bytes", "loss"):
        assert sum(share[column] for share in other["loss_shares"].values()) == pytest.approx(1)


def test_a_model_against_itself_differs_by_nothing(base: Path) -> None:
    folder = open_model(str(base))
    result = compare([folder, folder], [TEXT], SHORT)
    other = result["models"][1]["all"]
    assert other["difference"] == 0
    assert other["difference_interval"] == [0, 0]
    assert other["token_perplexity_ratio"] == 1


def test_compare_reports_json(run: Run, base: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(DOCUMENTS[0])
    result = run("compare", base, out, "--builtin", "hard", "--text", f"own={tmp_path}", "--json", "--resamples", 100)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [t["name"] for t in report["texts"]] == ["hard", "own"]
    assert report["texts"][1]["bytes"] == len(DOCUMENTS[0])
    assert len(report["texts"][1]["sha256"]) == 64
    assert report["settings"]["window"] == 128  # the models know no more positions
    other = report["models"][1]
    assert other["rows_by_reason"]["new"] > 0
    assert other["top_excess"][0]["made_of"]
    assert other["start_token"] == "<s>"


def test_compare_prints_tables(run: Run, base: Path, out: Path) -> None:
    result = run("compare", base, out, "--builtin", "arithmetic", "--max-bytes", 300, "--resamples", 100)
    assert result.exit_code == 0, result.output
    for heading in ("Bits per byte", "Tokens per byte", "not comparable", "Where the loss of out sits", "sha256"):
        assert heading in " ".join(result.stdout.split())


def test_compare_is_repeatable(run: Run, base: Path, out: Path) -> None:
    def once() -> dict[str, Any]:
        result = run("compare", base, out, "--builtin", "hard", "--json", "--quiet", "--resamples", 100)
        report = json.loads(result.stdout)
        for model in report["models"]:
            for key in ("seconds", "tokens_per_second", "bytes_per_second"):
                model.pop(key)
        return report

    assert once() == once()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--builtin", "klingon"], "there is no built-in text 'klingon'; there are prose, code"),
        (["--text", "own"], "--text takes NAME=PATH"),
        (["--text", "own=/nowhere/at/all"], "there is no file or folder '/nowhere/at/all'"),
        (["--text", "own={empty}"], "is empty: there is nothing to score"),
        (["--text", "own={jsonl},field=body"], "has no text in the field 'body' (it has text)"),
        (["--builtin", "en", "--builtin", "en"], "two texts have the name 'en'"),
        (["--builtin", "en", "--device", "cuda:77"], "--device 'cuda:77' cannot be used here"),
        (["--builtin", "en", "--stride", "500", "--window", "100"], "the stride must be between"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, base: Path, out: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "lines.jsonl").write_text('{"text": "a"}\n')
    names = {"empty": tmp_path / "empty.txt", "jsonl": tmp_path / "lines.jsonl"}
    result = run("compare", base, out, "--quiet", *[a.format(**names) for a in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_tokenizer_with_more_ids_than_rows_is_refused(
    run: Run, base: Path, copy_of: Callable[[Path], Path], german: Any
) -> None:
    folder = copy_of(base)
    german.save(str(folder / "tokenizer.json"))
    result = run("compare", base, folder, "--builtin", "en", "--quiet")
    assert result.exit_code == 2
    assert "tokenizer and model do not belong together" in result.output


def test_bytes_are_those_of_the_original_text(base: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(base)
    # What the model reads is shorter than the text: "ﬁ" (3 bytes) becomes "fi" (2), blanks at the end are dropped.
    rules = {
        "type": "Sequence",
        "normalizers": [{"type": "NFKC"}, {"type": "Strip", "strip_left": True, "strip_right": True}],
    }
    tiny_models.edit_json(folder / "tokenizer.json", lambda c: c.update(normalizer=rules))
    text = "the ﬁne river   "
    result = compare([open_model(str(folder))], [TextSet.of("t", [text], "test")], SHORT)
    report = result["models"][0]["all"]
    assert report["bytes"] == len(text.encode()) == 18
    read = score_documents(Scorer(load_model(open_model(str(base)))), load_tokenizer(str(base)), ["the fine river"])[0]
    assert report["bits_per_byte"] == pytest.approx(read.bits / 18, abs=1e-6)


def test_a_text_without_any_token_is_refused(
    run: Run, base: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = copy_of(base)
    rule = {"type": "Strip", "strip_left": True, "strip_right": True}
    tiny_models.edit_json(folder / "tokenizer.json", lambda c: c.update(normalizer=rule))
    (tmp_path / "blank.txt").write_text("   ")
    result = run("compare", base, folder, "--text", f"blank={tmp_path / 'blank.txt'}", "--quiet")
    assert result.exit_code == 2
    assert "gives no token for any of the 1 documents" in result.output
    assert run("tokenizer", folder, "--text", f"blank={tmp_path / 'blank.txt'}").exit_code == 2
