"""`check`: every question passes on a sound model and fails on one broken in just that way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from click.testing import Result
from tiny_models import byte_level_tokenizer, edit_json, edit_tensors, write_model, write_tokenizer
from tokenizers_zoo import CORPUS
from transplanting import transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks import Status, run_checks
from mergekit_tokenadapt.evaluation.checks.tokens import round_trip, unreachable_tokens
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.numerics.row_math import difference_of
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

EMBEDDING = "model.embed_tokens.weight"


def findings(folder: Path, base: Path | None = None) -> dict[str, Any]:
    found = run_checks(open_model(str(folder)), open_model(str(base)) if base else None)
    return {f.check: f for f in found}


def test_a_sound_transplant_passes_every_check(out: Path, base: Path) -> None:
    found = findings(out, base)
    assert {c for c, f in found.items() if f.status is Status.FAILED} == set()
    assert found["untouched"].details["copied_rows"] > 256
    assert found["norms"].status is Status.PASSED
    assert not [c for c, f in found.items() if f.status is Status.SKIPPED]


def test_a_base_model_alone_passes_and_says_what_was_not_asked(base: Path) -> None:
    found = findings(base)
    assert {c for c, f in found.items() if f.status is Status.SKIPPED} == {"norms", "untouched"}
    assert {c for c, f in found.items() if f.status is Status.FAILED} == set()


def test_a_base_that_the_model_was_not_made_from_is_named(out: Path, base: Path, tmp_path: Path) -> None:
    other = tiny_models.permuted(base, tmp_path / "other")  # the same tokens, under other ids
    found = findings(out, other)
    assert found["untouched"].status is Status.FAILED
    assert found["untouched"].message == (
        f"{out} was made not from {other}: its old ids are those of another tokenizer"
    )


def test_untied_models_pass(untied: Path) -> None:
    assert findings(untied)["tied"].message == "untied, both matrices stored"


def set_row(tensors: dict[str, torch.Tensor], row: int, value: float) -> None:
    tensors[EMBEDDING][row] = value


BROKEN = {
    "sizes: rows": ("sizes", "config.json", lambda c: c.update(vocab_size=400)),
    "sizes: highest id": (
        "sizes",
        "tokenizer.json",
        lambda c: c["model"]["vocab"].update({max(c["model"]["vocab"], key=c["model"]["vocab"].get): 5000}),
    ),
    "special ids: config": ("special ids", "config.json", lambda c: c.update(eos_token_id=0)),
    "special ids: generation": ("special ids", "generation_config.json", lambda c: c.update(eos_token_id=[2, 3])),
    "special ids: no token": ("special ids", "config.json", lambda c: c.update(pad_token_id=9999)),
    "start token: no token": (
        "start token",
        "tokenizer.json",
        lambda c: c.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [9999], "tokens": ["<s>"]}},
            }
        ),
    ),
    "tied": ("tied", "config.json", lambda c: c.update(tie_word_embeddings=False)),
    "chat template": (
        "chat template",
        "tokenizer_config.json",
        lambda c: c.update(chat_template="<|im_start|>x<|im_end|><|eot_id|>"),
    ),
    "finite": ("finite", None, lambda t: t["model.norm.weight"].fill_(float("nan"))),
    "zero rows": ("zero rows", None, lambda t: set_row(t, 300, 0.0)),
    "norms: long": ("norms", None, lambda t: t[EMBEDDING][350].mul_(100)),
    "norms: short": ("norms", None, lambda t: t[EMBEDDING][350].mul_(0.01)),
    "untouched: a layer": ("untouched", None, lambda t: t["model.norm.weight"][3].add_(1e-3)),
    "untouched: dtype": (
        "untouched",
        None,
        lambda t: t.update({"model.norm.weight": t["model.norm.weight"].half()}),
    ),
    "untouched: a copied row": ("untouched", None, lambda t: t[EMBEDDING][10].mul_(1.01)),
    "untouched: a setting": ("untouched", "config.json", lambda c: c.update(rms_norm_eps=0.1)),
    "untouched: a tensor more": ("untouched", None, lambda t: t.update(extra=torch.ones(3))),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_defect_fails_its_own_check(broken: str, out: Path, base: Path, copy_of: Callable[[Path], Path]) -> None:
    check, file, change = BROKEN[broken]
    folder = copy_of(out)
    if file:
        edit_json(folder / file, change)
    else:
        edit_tensors(folder, change)
    assert findings(folder, base)[check].status is Status.FAILED


@pytest.mark.parametrize("has_text", [False, True], ids=["no text", "text"])
def test_the_output_matrix_of_an_untied_model_is_compared_with_the_tied_one(
    base: Path, gemma_style_folder: Path, tmp_path: Path, has_text: bool
) -> None:
    (text := tmp_path / "text.txt").write_text("\n\n".join(CORPUS * 8))
    more = {"calibration_text": str(text)} if has_text else {}
    out = transplant(base, gemma_style_folder, tmp_path / "out", untie=True, **more)
    assert findings(out, base)["untouched"].status is Status.PASSED
    edit_tensors(out, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].roll(1, 0)}))
    assert "lm_head.weight, copied rows" in findings(out, base)["untouched"].message


def test_a_tokenizer_without_bytes_loses_characters(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "river": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert round_trip(tokenizer, "the sea", may_respell=True) == "lossy"


def test_a_normalizer_may_change_spelling_but_not_lose_letters() -> None:
    from tokenizers import normalizers

    tokenizer = byte_level_tokenizer(["the river"], 300)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    assert round_trip(tokenizer, "ﬁne Ⅻ", may_respell=True) == "normalised"
    assert round_trip(tokenizer, "ﬁne Ⅻ", may_respell=False) == "lossy"
    tokenizer.normalizer = normalizers.Replace("r", "")
    assert round_trip(tokenizer, "the river", may_respell=True) == "lossy"


@pytest.mark.parametrize("style", ["normalizer", "pre-tokenizer"])
def test_a_literal_space_marker_does_not_fail_sentencepiece(style: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    from mergekit_tokenadapt.evaluation.checks.tokens import check_round_trip

    vocabulary = {"<unk>": 0, "▁": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    if style == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    folder = write_tokenizer(tokenizer, tmp_path / "tokenizer", bos_token=None, eos_token=None)
    found = check_round_trip(load_tokenizer(str(folder)))
    assert found.status is Status.PASSED, found.message
    assert found.details["normalised"] >= 1
    assert found.details["exact"] >= 15


def test_unreachable_tokens_are_found_by_kind(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(["the river the river"], 300)
    folder = write_tokenizer(tokenizer, tmp_path / "tokenizer")

    def add_token_without_merge(content: dict[str, Any]) -> None:
        content["model"]["vocab"]["never"] = len(content["model"]["vocab"])

    assert unreachable_tokens(load_tokenizer(str(folder)))[0] == []
    edit_json(folder / "tokenizer.json", add_token_without_merge)
    found, partial = unreachable_tokens(load_tokenizer(str(folder)))
    assert [(t.text, t.kind.value) for t in found] == [("never", "ordinary")]
    assert partial == 128  # the bytes that start or continue a character of several


def test_padding_that_wins_fails_and_padding_that_cannot_passes(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(["the river"], 300)
    folder = write_model(tmp_path / "padded", tokenizer, rows=tokenizer.get_vocab_size() + 8)
    size = tokenizer.get_vocab_size()
    edit_tensors(folder, lambda t: t[EMBEDDING].__setitem__(slice(size, None), t[EMBEDDING][:size].mean(0)))
    assert findings(folder)["padding"].status is Status.PASSED
    edit_tensors(folder, lambda t: t[EMBEDDING][size:].copy_(50 * t[EMBEDDING][5:13]))
    found = findings(folder)["padding"]
    assert found.status is Status.FAILED
    assert "an id without a token wins at" in found.message


def test_bits_are_compared_not_values() -> None:
    zero, negative = torch.zeros(3), torch.tensor([0.0, -0.0, 0.0])
    nan = torch.full((3,), float("nan"))
    assert difference_of(zero, negative) is not None
    assert difference_of(nan, nan.clone()) is None


# --- the command ---------------------------------------------------------------------------------

Run = Callable[..., Result]


def test_exit_code_0_and_json(run: Run, out: Path, base: Path) -> None:
    result = run("check", out, "--base", base, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["sound"] is True
    assert {f["check"] for f in report["findings"]} >= {"sizes", "special ids", "tied", "untouched", "padding"}


def test_exit_code_1_where_a_check_failed(run: Run, out: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(out)
    edit_json(folder / "config.json", lambda c: c.update(vocab_size=400))
    result = run("check", folder)
    assert result.exit_code == 1
    assert "is not sound: sizes" in " ".join(result.output.split())


def bad_inputs(out: Path, tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    encoder = tmp_path / "encoder"
    write_tokenizer(byte_level_tokenizer(["a b"], 300), encoder)
    (encoder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 300}))
    no_weights = tmp_path / "no-weights"
    write_tokenizer(byte_level_tokenizer(["a b"], 300), no_weights)
    (no_weights / "config.json").write_text((out / "config.json").read_text())
    corrupt = tmp_path / "corrupt"
    write_tokenizer(byte_level_tokenizer(["a b"], 300), corrupt)
    (corrupt / "config.json").write_text("{")
    return {
        "missing folder": (["check", tmp_path / "nowhere"], "there is no model folder"),
        "no config": (["check", tmp_path], "it has no config.json"),
        "not causal": (["check", encoder], "transformers has no class that config.json names"),
        "no weights": (["check", no_weights], "holds no weights"),
        "corrupt config": (["check", corrupt], "is not valid JSON"),
        "missing base": (["check", out, "--base", tmp_path / "nowhere"], "there is no model folder"),
    }


@pytest.mark.parametrize(
    "case", ["missing folder", "no config", "not causal", "no weights", "corrupt config", "missing base"]
)
def test_bad_input_is_one_line_and_exit_code_2(case: str, run: Run, out: Path, tmp_path: Path) -> None:
    arguments, message = bad_inputs(out, tmp_path)[case]
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_library_errors_are_value_errors(tmp_path: Path) -> None:
    with pytest.raises(TokenAdaptError, match=r"no config\.json"):
        open_model(str(tmp_path))
