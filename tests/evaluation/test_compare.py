"""`compare`: losses against slow computations of their own, invariances, accounting, hard cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from click.testing import Result
from mergekit.options import MergeOptions
from tokenizers import Tokenizer, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.bits_per_byte import bits_per_byte
from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts
from mergekit_tokenadapt.evaluation.compare import CompareOptions, compare, domain_report
from mergekit_tokenadapt.evaluation.excess import excess_losses, loss_shares, token_classes
from mergekit_tokenadapt.evaluation.origins import find_origins
from mergekit_tokenadapt.models.documents import ScoredDocument, score_documents
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.losses import Scorer, token_losses, windows
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.encoded_text import byte_ends
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

Run = Callable[..., Result]
DOCUMENTS = (
    "the river runs past the old mill",
    "sie zählt die Steine: eins, zwei, drei. 🙂",
    "bread and water " * 40,
    "a",
)
TEXT = TextSet.of("mixed", DOCUMENTS, "test")
SHORT = CompareOptions(window=32, stride=16, resamples=100)


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


def test_the_one_call_agrees_with_the_documents(base: Path) -> None:
    model = load_model(open_model(str(base)))
    (document,) = score_documents(Scorer(model), load_tokenizer(str(base)), [DOCUMENTS[0]])
    value = bits_per_byte(model, AutoTokenizer.from_pretrained(base), DOCUMENTS[0])
    assert value == pytest.approx(document.bits / document.num_bytes, abs=1e-9)


def test_bits_per_byte_do_not_change_with_a_permutation_of_ids(base: Path, tmp_path: Path) -> None:
    shuffled = tiny_models.permuted(base, tmp_path / "shuffled")
    result = compare([open_model(str(base)), open_model(str(shuffled))], [TEXT], SHORT)
    first, second = (m["all"]["bits_per_byte"] for m in result["models"])
    assert first == pytest.approx(second, abs=1e-4)
    assert load_tokenizer(str(shuffled)).vocabulary.tokens != load_tokenizer(str(base)).vocabulary.tokens


def test_losses_do_not_depend_on_batches(base: Path) -> None:
    model = load_model(open_model(str(base)))
    sequences = [[0, *range(4, 4 + n)] for n in (50, 3, 17, 1, 0)]
    alone = Scorer(model, window=16, stride=8, max_batch=1).score(sequences)
    together = Scorer(model, window=16, stride=8).score(sequences)
    assert [len(losses) for losses in alone] == [50, 3, 17, 1, 0]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(0, 8, 4), (1, 8, 4), (8, 8, 4), (9, 8, 4), (100, 8, 8), (7, 3, 1)]
)
def test_windows_score_every_prediction_once(length: int, window: int, stride: int) -> None:
    runs = list(windows(0, length, window, stride))
    scored = [place for w in runs for place in range(w.first, w.end)]
    assert scored == list(range(length))
    assert all(w.end - w.begin <= window and w.begin <= w.first for w in runs)
    assert all(w.first - w.begin == window - (w.end - w.first) for w in runs[1:])


def test_a_stride_beyond_the_window_is_refused(base: Path) -> None:
    with pytest.raises(TokenAdaptError, match="stride must be between 1 and the window"):
        Scorer(None, window=8, stride=9)


def test_token_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    np.testing.assert_allclose(token_losses(logits, torch.tensor([1, 0])), [math.log(2), math.log(4 / 3)], atol=1e-6)


class FailsOnLargeBatches:
    """A model that runs out of memory with more than two windows."""

    def __init__(self, model: Any) -> None:
        self._model, self.device, self.config = model, model.device, model.config
        self.sizes: list[int] = []

    def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
        self.sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._model(inputs, **kwargs)


def test_out_of_memory_halves_the_batch(base: Path) -> None:
    model = load_model(open_model(str(base)))
    sequences = [[0, *range(4, 14)] for _ in range(9)]
    limited = FailsOnLargeBatches(model)
    found = Scorer(limited).score(sequences)
    assert limited.sizes == [9, 4, 2, 2, 2, 2, 1]
    for a, b in zip(found, Scorer(model).score(sequences), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_out_of_memory_with_one_window_is_an_error(base: Path) -> None:
    class Never(FailsOnLargeBatches):
        def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TokenAdaptError, match="try a smaller --window"):
        Scorer(Never(load_model(open_model(str(base))))).score([[0, 4, 5]])


def test_other_runtime_errors_are_not_swallowed(base: Path) -> None:
    class Broken(FailsOnLargeBatches):
        def __call__(self, inputs: torch.Tensor, **kwargs: Any) -> Any:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Scorer(Broken(load_model(open_model(str(base))))).score([[0, 4, 5]])


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


def test_loading_prints_nothing_and_leaves_the_bars_of_others_alone(
    base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    load_model(open_model(str(base)))
    assert capfd.readouterr().err == ""
    AutoModelForCausalLM.from_pretrained(base)
    assert "Loading weights" in capfd.readouterr().err
    logging.disable_progress_bar()
    try:
        load_model(open_model(str(base)))
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()


def test_a_model_against_itself_differs_by_nothing(base: Path) -> None:
    folder = open_model(str(base))
    result = compare([folder, folder], [TEXT], SHORT)
    other = result["models"][1]["all"]
    assert other["difference"] == 0
    assert other["difference_interval"] == [0, 0]
    assert other["token_perplexity_ratio"] == 1


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


# --- bytes of tokens -----------------------------------------------------------------------------


def test_byte_ends_follow_the_tokens_bytes() -> None:
    tokenizer = tiny_models.byte_level_tokenizer(["the river"], 300)
    text = "the é🙂"
    encoding = tokenizer.encode(text)
    vocabulary = vocabulary_of(tokenizer)
    ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary)
    joined = text.encode()
    starts = [0, *ends[:-1].tolist()]
    pieces = [joined[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
    assert pieces == [vocabulary.by_id[i].bytes for i in encoding.ids]


def test_byte_ends_with_a_normalizer_follow_the_original_text() -> None:
    tokenizer = tiny_models.byte_level_tokenizer(["the river"], 300)
    tokenizer.normalizer = normalizers.NFKC()
    text = "ﬁve Ⅻ the"  # 2 and 1 characters of three bytes each, which become "fi" and "XII"
    encoding = tokenizer.encode(text)
    ends = byte_ends(text, encoding.ids, encoding.offsets, vocabulary_of(tokenizer))
    assert ends[-1] == len(text.encode())
    assert (np.diff(ends) >= 0).all()
    assert byte_ends("", [], [], vocabulary_of(tokenizer)).tolist() == []


def vocabulary_of(tokenizer: Any) -> Any:
    from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

    return Vocabulary.from_definition(json.loads(tokenizer.to_str()))


def document(losses: list[float], ends: list[int], ids: list[int] | None = None) -> ScoredDocument:
    return ScoredDocument("x" * ends[-1], np.array(ids or range(len(losses))), np.array(losses), np.array(ends))


def test_excess_by_hand() -> None:
    base = document([4.0, 2.0], [4, 6])  # one nat per byte
    ours = document([3.0, 5.0, 1.0], [2, 5, 6])
    assert excess_losses(ours, base).tolist() == [3 - 2, 5 - 3, 1 - 1]
    assert excess_losses(base, base).tolist() == [0, 0]


def test_excess_where_base_tokens_share_an_end() -> None:
    base = document([1.0, 2.0, 3.0], [3, 3, 4])  # two parts of one character
    ours = document([5.0, 5.0], [3, 4])
    assert excess_losses(ours, base).tolist() == [5 - 3, 5 - 3]


def test_classes_of_tokens(out: Path, base: Path) -> None:
    origins = find_origins(open_model(str(out)), open_model(str(base)))
    assert origins is not None
    new, copied = int(origins.new_ids[0]), int(origins.copied_ids[-1])
    classes = token_classes(np.array([copied, new, copied, copied, new, new]), origins)
    assert classes.tolist() == [1, 0, 2, 1, 0, 0]
    ours = document([1.0, 2.0, 3.0, 2.0], [1, 2, 3, 8], [copied, new, copied, copied])
    shares = loss_shares([(ours, document([8.0], [8]))], origins)
    assert shares["new"]["loss"] == pytest.approx(2 / 8)
    assert shares["following"]["bytes"] == pytest.approx(1 / 8)
    assert shares["copied"]["tokens"] == pytest.approx(2 / 4)


@pytest.fixture(scope="module")
def second(root: Path, base: Path, german: Tokenizer) -> Path:
    """The base model with ids in another order, transplanted by the plugin: with a manifest."""
    other = tiny_models.permuted(base, root / "base in another order")
    tokenizer = tiny_models.write_tokenizer(german, root / "german")
    return run_recipe(
        make_recipe(str(other), str(tokenizer), {"method": "mean"}), str(root / "second"), MergeOptions(quiet=True)
    )


@pytest.mark.parametrize("manifest", [True, False], ids=["by hash", "by the tokens"])
def test_old_ids_are_read_with_the_model_that_they_are_of(
    out: Path, second: Path, base: Path, copy_of: Callable[[Path], Path], manifest: bool
) -> None:
    """`base` and the model in another order have the same tokens under other ids."""
    right, model = second.parent / "base in another order", copy_of(second)
    if not manifest:
        (model / "tokenadapt.json").unlink()
    result = compare([open_model(str(f)) for f in (right, model, out)], [TEXT], SHORT)
    ours, other = result["models"][1:]
    assert ours["origin_note"] is None
    for token in ours["top_excess"]:
        assert token["made_of"]
        if token["reason"] == "copied":
            assert [part["text"] for part in token["made_of"]] == [token["text"]]
    made_from = f"from {right}, " if manifest else ""
    assert other["origin_note"].startswith(f"{out} was made not from {right}: its old ids are those of another")
    assert all(token["made_of"] is None for token in other["top_excess"])

    report = compare([open_model(str(f)) for f in (base, model)], [TEXT], SHORT)["models"][1]
    assert report["origin_note"].startswith(f"{model} was made {made_from}not from {base}")
    assert all(token["made_of"] is None for token in report["top_excess"])


def test_the_column_is_left_out_and_that_is_said(run: Run, second: Path, base: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("compare", base, second, "--builtin", "hard", "--max-bytes", 300, "--resamples", 100, "--html", page)
    assert result.exit_code == 0, result.output
    for report in (" ".join(result.stdout.split()), page.read_text()):
        assert "What rows are made of is left out: " in report
    assert "made of ┃" not in result.stdout
    assert "row made of" not in page.read_text()


# --- bootstrap -----------------------------------------------------------------------------------


def test_resamples_draw_as_many_documents_as_there_are() -> None:
    counts = resample_counts(7, 50, np.random.default_rng(0))
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == resample_counts(7, 50, np.random.default_rng(0))).all()


def test_interval_is_the_middle_95_percent() -> None:
    assert interval(np.arange(1001)) == pytest.approx([25, 975])


def test_intervals_agree_with_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(1)
    base = [document([float(generator.gamma(2))], [int(n)]) for n in generator.integers(5, 50, size=12)]
    ours = [document([float(d.losses[0]) + 1 + float(generator.normal())], [int(d.ends[-1])]) for d in base]
    counts = resample_counts(12, 300, np.random.default_rng(2))
    report = domain_report(ours, base, counts)
    values = []
    for row in counts:
        drawn = [d for d, times in zip(range(12), row, strict=True) for _ in range(times)]
        bits = sum(ours[d].bits - base[d].bits for d in drawn)
        values.append(bits / sum(ours[d].num_bytes for d in drawn))
    assert report["difference_interval"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    assert report["interval"][0] < report["bits_per_byte"] < report["interval"][1]


def test_one_document_has_no_interval() -> None:
    one = [document([1.0], [4])]
    report = domain_report(one, one, resample_counts(1, 100, np.random.default_rng(0)))
    assert report["interval"] is None


# --- the command ---------------------------------------------------------------------------------


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
    # What the model reads is shorter than the text: "ﬁ" (3 bytes) becomes "fi" (2), blanks at the end are cut.
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
