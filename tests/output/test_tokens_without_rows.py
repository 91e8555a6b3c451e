"""Published models whose tokenizers have more added tokens than the model has rows (Gemma 3 without its images)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokenizers_zoo import added, byte_level, tiny_model_folder, write_tokenizer
from transformers import AutoModelForCausalLM
from transplanting import EMBEDDINGS, edit_json, tensors_of, transplant

from mergekit_tokenadapt.cli import heal_after
from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks.finding import Status
from mergekit_tokenadapt.evaluation.checks.sizes import check_sizes
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

BEYOND = ["<image>", "<tool>s"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """(a model whose two last tokens have no rows, another model, rows of the first)."""
    root = tmp_path_factory.mktemp("beyond")
    definition, config = byte_level()
    rows = 1 + max(*definition["model"]["vocab"].values(), *(entry["id"] for entry in definition["added_tokens"]))
    definition["added_tokens"] += [added(BEYOND[0], rows), added(BEYOND[1], rows + 1, special=False)]
    model = tiny_model_folder(
        write_tokenizer(root / "tokenizer", definition, config), root / "model", rows=rows, seed=1
    )
    other = tiny_model_folder(write_tokenizer(root / "plain", *byte_level()), root / "other", seed=2)
    return model, other, rows


def test_ordinary_tokens_have_to_have_rows(models: tuple[Path, Path, int]) -> None:
    tokenizer = load_tokenizer(str(models[0]))
    assert tokenizer.vocabulary.num_ids == models[2] + 2
    limited = tokenizer.with_rows(models[2])
    assert limited.vocabulary.num_ids == models[2] == len(limited.fast_tokenizer().get_vocab())
    assert tokenizer.with_rows(models[2] + 2) is tokenizer
    with pytest.raises(
        TokenAdaptError, match="6 tokens have no row, ordinary ones among them: tokenizer and model do not"
    ):
        tokenizer.with_rows(models[2] - 4)


@pytest.mark.parametrize("command", ["draft", "distill-prep"])
def test_a_model_is_put_onto_such_a_vocabulary(
    models: tuple[Path, Path, int], tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    model, other, rows = models
    result = CliRunner().invoke(main, [command, str(model), str(other), str(tmp_path / "out"), "--method", "mean"])
    assert result.exit_code == 0, result.output
    assert tensors_of(tmp_path / "out")[EMBEDDINGS].equal(tensors_of(other)[EMBEDDINGS])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    finding = check_sizes(open_model(str(tmp_path / "out")))
    assert (finding.status, "'<image>', '<tool>s'" in finding.message) == (Status.NOTED, True)


def test_an_ensemble_speaks_such_a_vocabulary(models: tuple[Path, Path, int], tmp_path: Path) -> None:
    model, other, _ = models
    result = CliRunner().invoke(
        main, ["ensemble", str(model), str(other), "--out", str(tmp_path / "out"), "--method", "mean"]
    )
    assert result.exit_code == 0, result.output


def test_such_a_model_is_compared(models: tuple[Path, Path, int], tmp_path: Path) -> None:
    """Text that spells such a token is segmented as other text is: the model has no row to read it with."""
    text = tmp_path / "text.txt"
    text.write_text("the river <image> of the mill <tool>s " * 20)
    arguments = ["compare", str(models[0]), str(models[1]), "--text", f"t={text}"]
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 0, result.output


def test_what_such_a_model_accepts_of_a_draft_is_measured(models: tuple[Path, Path, int], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the river <image> of the mill <tool>s " * 20)
    arguments = ["draft", str(models[0]), str(models[0]), "--text", f"t={text}", "--new-tokens", "8", "--json"]
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["modes"]["greedy"]["acceptance"] == 1


def test_such_a_model_writes_the_text_to_heal_on(
    models: tuple[Path, Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the base of a healed model and the target of a draft write."""
    model, other, _ = models
    short = {"steps": 2, "looks": 1, "passages_per_step": 2, "passage_bytes": 400, "rank": 4, "probe_bytes": 0}
    monkeypatch.setattr(heal_after, "HealOptions", lambda **given: HealOptions(**short, own_passages=2, **given))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the river {n} <image> of the mill <tool>s" for n in range(300)))
    heal = ("--method", "mean", "--no-untie", "--quiet", "--heal", "--heal-text", str(text))
    swap = ["transplant", str(model), str(other), str(tmp_path / "moved"), *heal]
    draft = ["draft", str(model), str(other), str(tmp_path / "draft"), *heal]
    for arguments in (swap, draft):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output


def test_rows_of_the_donor(models: tuple[Path, Path, int], tmp_path: Path) -> None:
    model, other, rows = models
    out = transplant(other, model, tmp_path / "out", rows="donor", method="donor_linear")
    assert AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().num_embeddings == rows
    every = transplant(other, model, tmp_path / "every", method="donor_linear")
    assert len(tensors_of(every)[EMBEDDINGS]) == rows + 2
    assert tensors_of(every)[EMBEDDINGS].isfinite().all()


@pytest.mark.parametrize("role", ["a role", "the chat template"])
def test_a_token_that_is_used_has_to_have_a_row(models: tuple[Path, Path, int], tmp_path: Path, role: str) -> None:
    model, other, _ = models
    CliRunner().invoke(main, ["draft", str(model), str(other), str(tmp_path / "out"), "--method", "mean"])
    change = {"pad_token": "<image>"} if role == "a role" else {"chat_template": "{{ '<image>' }}"}
    edit_json(tmp_path / "out" / "tokenizer_config.json", **change)
    finding = check_sizes(open_model(str(tmp_path / "out")))
    assert finding.status is Status.FAILED
