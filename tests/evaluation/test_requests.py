"""`tasks --requests`: reading request files, splitting tokens, sharing prefixes, and (slow) the harness's scores."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import TaskOptions
from mergekit_tokenadapt.evaluation.request_files import read_requests
from mergekit_tokenadapt.evaluation.request_scores import encode_task, score_requests
from mergekit_tokenadapt.evaluation.tasks import run_tasks
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.shared_prefix import PrefixScorer, shared_length
from mergekit_tokenadapt.tokenizer.continuations import Continuation, ContinuationEncoder

Run = Callable[..., Result]
QUESTIONS = [
    ("Question: what does the miller count?\nAnswer:", [" the stones", " bread", " a happy family by the river"], 0),
    ("Question: where does the river run?\nAnswer:", [" past the mill", " zur Mühle 🙂"], 1),
    ("Question: who sang?\nAnswer:", [" the words", " the words were singing in the ring", " flour", " water"], 1),
    ("Question: who sang in the ring, and who sat by it?\nAnswer:", [" she", " he"], 0),
    ("the river runs past the old ", ["mill", "miller"], 0),  # white space moves to the choices
]


def request(
    document: int, choice: int, context: str, continuation: str, label: Any, kind: str = "loglikelihood"
) -> dict[str, Any]:
    return {
        "request_type": kind,
        "doc_id": document,
        "idx": choice,
        "label": label,
        "request": {"context": context, "continuation": continuation},
    }


def write(file: Path, requests: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in requests)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def choices(questions: Sequence[tuple[str, list[str], int]] = QUESTIONS) -> list[dict[str, Any]]:
    return [
        request(n, idx, context, text, gold)
        for n, (context, texts, gold) in enumerate(questions)
        for idx, text in enumerate(texts)
    ]


@pytest.fixture
def multiple_choice(tmp_path: Path) -> Path:
    """A folder as in the package, with the repeated documents that have no question."""
    unconditioned = [request(1_000_000, n, "Answer:", " x", 0) for n in range(3)]
    return write(tmp_path / "quiz" / "rc_0shot" / "requests.jsonl.gz", [*choices(), *unconditioned]).parent


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    kind = "generate_until_and_loglikelihood"
    found = [request(n, 0, f"def f{n}():\n", f"    return {n} * {n}\n", None, kind) for n in range(5)]
    return write(tmp_path / "gold.jsonl", found)


def losses_one_by_one(folder: Path, questions: Sequence[tuple[str, list[str], int]]) -> list[list[float]]:
    """Nats of each choice, by lm-evaluation-harness's rule written out: one text at a time, no cache, no padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found: list[list[float]] = []
    for context, texts, _ in questions:
        found.append([])
        for text in texts:
            spaces = len(context) - len(context.rstrip())
            before = context[: len(context) - spaces]
            whole = tokenizer(before + context[len(before) :] + text).input_ids
            first = len(tokenizer(before).input_ids)
            with torch.inference_mode():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            found[-1].append(-sum(float(logs[n - 1, whole[n]]) for n in range(first, len(whole))))
    return found


# --- scores ------------------------------------------------------------------------------------------


def test_scores_are_those_of_one_text_at_a_time(base: Path, multiple_choice: Path) -> None:
    losses = losses_one_by_one(base, QUESTIONS)
    result = score_requests([open_model(str(base))], [read_requests(multiple_choice)])
    scores = {s["metric"]: s for s in result["models"][0]["scores"]}
    sizes = [[len((c[len(c.rstrip()) :] + t).encode()) for t in texts] for c, texts, _ in QUESTIONS]
    gold = [g for _, _, g in QUESTIONS]
    by_bytes = [np.argmin(np.array(loss) / size) == g for loss, size, g in zip(losses, sizes, gold, strict=True)]
    bits = sum(loss[g] for loss, g in zip(losses, gold, strict=True)) / math.log(2)
    assert scores["acc"]["value"] == np.mean([np.argmin(loss) == g for loss, g in zip(losses, gold, strict=True)])
    assert scores["acc_bytes"]["value"] == np.mean(by_bytes)
    num_bytes = sum(size[g] for size, g in zip(sizes, gold, strict=True))
    assert scores["bits_per_byte"]["value"] == pytest.approx(bits / num_bytes, rel=1e-5)
    assert scores["acc"]["value"] != scores["acc_bytes"]["value"]  # or the test could not tell them apart
    low, high = scores["bits_per_byte"]["interval"]
    assert low < scores["bits_per_byte"]["value"] < high
    assert result["requests"][0]["name"] == "quiz/rc_0shot"
    assert result["requests"][0]["documents"] == len(QUESTIONS)  # those without a question do not count


def test_sharing_prefixes_changes_the_work_and_not_the_scores(base: Path, multiple_choice: Path) -> None:
    folder = open_model(str(base))
    documents, _ = encode_task(folder, read_requests(multiple_choice))
    model = load_model(folder, device="cpu")
    shared, plain = PrefixScorer(model), PrefixScorer(model, shares=False)
    for ours, theirs in zip(shared.score(documents), plain.score(documents), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert shared.why_plain is None
    shared.num_read = 0  # without the check of the first batch
    shared.score(documents)
    assert shared.num_read < 0.6 * plain.num_read
    one = PrefixScorer(model, max_batch=1)
    np.testing.assert_allclose(np.concatenate(one.score(documents)), np.concatenate(plain.score(documents)), atol=1e-4)


def test_a_wrong_cache_is_found_out(base: Path, multiple_choice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_model(str(base))
    documents, _ = encode_task(folder, read_requests(multiple_choice))
    model = load_model(folder, device="cpu")
    right = np.concatenate(PrefixScorer(model, shares=False).score(documents))
    whole = PrefixScorer._cache_of_prefixes

    def scrambled(self: PrefixScorer, chosen: Any, prefix: int) -> Any:
        cache = whole(self, chosen, prefix)
        cache.layers[0].keys = cache.layers[0].keys.flip(2)
        return cache

    monkeypatch.setattr(PrefixScorer, "_cache_of_prefixes", scrambled)
    scorer = PrefixScorer(model)
    np.testing.assert_allclose(np.concatenate(scorer.score(documents)), right, atol=1e-4)
    assert scorer.why_plain is not None
    assert "differ by" in scorer.why_plain


def test_memory_that_runs_out_halves_the_batch(base: Path, multiple_choice: Path) -> None:
    folder = open_model(str(base))
    documents, _ = encode_task(folder, read_requests(multiple_choice))
    model = load_model(folder, device="cpu")
    plain = PrefixScorer(model, shares=False)
    right = np.concatenate(plain.score(documents))
    whole, sizes = PrefixScorer._run, []

    def narrow(self: PrefixScorer, chosen: Sequence[Any], prefix: int) -> Any:
        sizes.append(len(chosen))
        if len(chosen) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, chosen, prefix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefixScorer, "_run", narrow)
        np.testing.assert_allclose(np.concatenate(plain.score(documents)), right, atol=1e-4)
    assert sizes[0] == len(documents)


def test_the_shared_prefix_ends_before_the_last_token_of_the_context() -> None:
    first = Continuation((5, 6, 7, 8, 9), 3, 1, keeps_boundary=True)
    assert shared_length([first, first._replace(ids=(5, 6, 7, 1))]) == 2
    assert shared_length([first, first._replace(ids=(5, 4, 7, 8))]) == 1
    assert shared_length([first]) == 0


def test_a_sample_is_the_same_for_every_model_and_differs_by_seed(base: Path, out: Path, tmp_path: Path) -> None:
    questions = [(f"number {n} is", [f" {n}", f" {n + 1}"], 0) for n in range(40)]
    task = read_requests(write(tmp_path / "numbers.jsonl", choices(questions)))
    result = score_requests([open_model(str(base)), open_model(str(out))], [task], TaskOptions(limit=10))
    assert result["requests"][0]["documents"] == 10
    assert result["requests"][0]["documents_in_file"] == 40
    first, second = (m["scores"][2] for m in result["models"])
    assert first["difference"] == 0
    assert first["difference_interval"] == [0, 0]
    assert second["difference"] == pytest.approx(second["value"] - first["value"])
    assert task.sample(10, 0) != task.sample(10, 1)


def test_too_long_a_context_loses_its_beginning(base: Path, tmp_path: Path) -> None:
    long = " the river runs past the old mill" * 100
    task = read_requests(write(tmp_path / "long.jsonl", [request(0, 0, long, " and so on", None)]))
    folder = open_model(str(base))
    (((found,),), num_truncated) = encode_task(folder, task)
    assert (num_truncated, len(found.ids)) == (1, 129)  # the window, and the token that is only predicted
    assert folder.tokenizer.fast_tokenizer().decode(list(found.ids[found.first :])) == " and so on"
    with pytest.raises(TokenAdaptError, match=r"an answer of longer has \d+ tokens, and the model reads 128"):
        encode_task(folder, read_requests(write(tmp_path / "longer.jsonl", [request(0, 0, "x", long, None)])))


# --- tokens ------------------------------------------------------------------------------------------


def test_context_and_continuation_are_tokenized_together(base: Path) -> None:
    encoder = ContinuationEncoder(open_model(str(base)).tokenizer)
    fast = encoder.tokenizer.fast_tokenizer()
    apart = encoder.encode("the river", " runs")
    assert apart.keeps_boundary
    assert list(apart.ids) == fast.encode("the river runs").ids
    moved = encoder.encode("the river ", "runs")
    assert moved == apart  # the space moves, and its byte with it
    crossed = encoder.encode("the ri", "ver runs")
    assert not crossed.keeps_boundary
    assert list(crossed.ids) == fast.encode("the river runs").ids
    assert crossed.first == len(fast.encode("the ri").ids)
    nothing = encoder.encode("", " runs")
    assert (nothing.ids[0], nothing.first) == (0, 1)  # <s>
    first, second = next(token for token in fast.get_vocab() if len(token) == 2 and token.isalpha() and token.isascii())
    swallowed = encoder.encode(first, second)
    assert list(swallowed.ids) == fast.encode(first).ids + fast.encode(second).ids
    assert not swallowed.keeps_boundary


def test_the_start_token_is_put_before_each_context_if_asked_for(base: Path) -> None:
    tokenizer = open_model(str(base)).tokenizer
    plain, starting = ContinuationEncoder(tokenizer), ContinuationEncoder(tokenizer, always_starts=True)
    without, found = plain.encode("the river", " runs"), starting.encode("the river", " runs")
    assert (found.ids, found.first) == ((0, *without.ids), without.first + 1)  # <s>
    assert starting.encode("", " runs") == plain.encode("", " runs")


def test_scores_with_a_start_token_are_others(run: Run, base: Path, answers: Path) -> None:
    values = []
    for flags in ((), ("--start-token",)):
        result = json.loads(run("tasks", base, "--requests", answers, "--json", "--quiet", *flags).stdout)
        assert result["settings"]["start_token"] == bool(flags)
        values.append(result["models"][0]["scores"][0]["value"])
    assert values[0] != values[1]
    refused = run("tasks", base, "--tasks", "arc_easy", "--start-token")
    assert refused.exit_code == 2
    assert "--start-token belongs to --requests" in refused.stderr


# --- the command and bad input -----------------------------------------------------------------------


def test_the_command_prints_tables_and_json(
    run: Run, base: Path, out: Path, multiple_choice: Path, answers: Path
) -> None:
    arguments = ("tasks", base, out, "--requests", multiple_choice, "--requests", answers)
    printed = run(*arguments)
    assert printed.exit_code == 0, printed.output
    assert "quiz/rc_0shot" in printed.stdout
    assert "acc_bytes" in printed.stdout
    assert "100%" in printed.stderr
    quiet = run(*arguments, "--json", "--quiet")
    assert quiet.stderr == ""
    result = json.loads(quiet.stdout)
    assert [t["kind"] for t in result["requests"]] == ["multiple choice", "gold answers"]
    assert [s["metric"] for s in result["models"][1]["scores"]] == [
        "acc",
        "acc_bytes",
        "bits_per_byte",
        "bits_per_byte",
    ]


def test_scores_of_requests_join_the_page(run: Run, base: Path, out: Path, answers: Path, tmp_path: Path) -> None:
    compared = run("compare", base, out, "--builtin", "arithmetic", "--max-bytes", 300, "--json", "--quiet")
    (tmp_path / "compare.json").write_text(compared.stdout)
    page = tmp_path / "report.html"
    result = run(
        "tasks", base, out, "--requests", answers, "--report", tmp_path / "compare.json", "--html", page, "--json"
    )
    assert result.exit_code == 0, result.output
    score = json.loads(result.stdout)["tasks"]["models"][1]["scores"][0]
    assert f"{score['value']:.4f} [{score['interval'][0]:.4f}" in page.read_text()


GOOD = request(0, 0, "a", " b", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: there is no request to score"),
        (b"hello\n", "line 1: no JSON, so this is no request file"),
        (b'{"text": "a"}\n', 'line 1: no request of olmo-eval: the key "request_type" is missing'),
        (b"[1]\n", 'the key "request_type" is missing'),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (GOOD | {"request_type": "generate_until"}, "a request of the type 'generate_until' cannot be scored"),
        (GOOD | {"request": {"context": "a"}}, "the request has no text 'continuation'"),
        (GOOD | {"request": ["a"]}, "the request has no text 'context'"),
        (GOOD | {"request": {"context": "a", "continuation": ""}}, "the continuation is empty"),
        (GOOD | {"request": {"context": "\ud800", "continuation": "b"}}, "half of a surrogate pair"),
        (GOOD | {"doc_id": "x"}, "'doc_id' should be a number from 0 on, not 'x'"),
        (GOOD | {"doc_id": 1_000_000}, "only requests without a question"),
        ([GOOD, GOOD], "document 0 has the choice 0 twice"),
        ([GOOD, GOOD | {"idx": 1, "label": 1}], "the label of document 0 names none of its 2 choices"),
        ([GOOD | {"label": 7}, GOOD | {"idx": 1, "label": 7}], "names none of its 2 choices"),
        ([GOOD, GOOD | {"idx": 1}, GOOD | {"doc_id": 1}], "some documents have several continuations"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(
    run: Run, base: Path, tmp_path: Path, content: Any, message: str
) -> None:
    file = tmp_path / "bad.jsonl"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write(file, content if isinstance(content, list) else [content])
    result = run("tasks", base, "--requests", file)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_bad_folders_archives_and_options(run: Run, base: Path, tmp_path: Path, multiple_choice: Path) -> None:
    def said(*arguments: object) -> str:
        result = run("tasks", base, *arguments)
        assert result.exit_code == 2
        return " ".join(result.output.split())

    (tmp_path / "cut.jsonl.gz").write_bytes((multiple_choice / "requests.jsonl.gz").read_bytes()[:60])
    (tmp_path / "plain.jsonl.gz").write_text(json.dumps(GOOD))
    (tmp_path / "none").mkdir()
    write(multiple_choice.parent / "mc_5shot" / "requests.jsonl.gz", choices())
    assert "cannot be unpacked as gzip" in said("--requests", tmp_path / "cut.jsonl.gz")
    assert "cannot be unpacked as gzip" in said("--requests", tmp_path / "plain.jsonl.gz")
    assert "there is no file or folder '/nowhere'" in said("--requests", "/nowhere")
    assert "holds no file *.jsonl or *.jsonl.gz" in said("--requests", tmp_path / "none")
    several = said("--requests", multiple_choice.parent)
    assert "holds 2 request files (mc_5shot/requests.jsonl.gz, rc_0shot/requests.jsonl.gz)" in several
    assert "give a task the name 'quiz/rc_0shot'" in said("--requests", multiple_choice, "--requests", multiple_choice)
    assert "give either --tasks" in said()
    assert "give either --tasks" in said("--tasks", "arc_easy", "--requests", multiple_choice)
    assert "--num-fewshot belongs to --tasks" in said("--requests", multiple_choice, "--num-fewshot", 2)


# --- the harness itself ------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_equal_those_of_the_harness(base: Path, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    # The harness puts one space between the question and each choice.
    lines = [{"q": q.rstrip(), "choices": [t.strip() for t in texts], "gold": g} for q, texts, g in QUESTIONS]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "own.yaml").write_text(
        "task: own_quiz\ndataset_path: json\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        'test_split: test\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\n'
        "metric_list:\n  - metric: acc\n"
    )
    task = read_requests(
        write(
            tmp_path / "own_quiz.jsonl", choices([(x["q"], [" " + c for c in x["choices"]], x["gold"]) for x in lines])
        )
    )
    folders = [open_model(str(base)), open_model(str(out))]
    theirs = run_tasks(folders, ["own_quiz"], TaskOptions(include_path=tmp_path))
    ours = score_requests(folders, [task])
    for model, scores in zip(ours["models"], theirs["models"], strict=True):
        (score,) = scores["scores"]
        assert score["value"] == model["scores"][0]["value"]
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    requests = [
        Instance("loglikelihood", {}, (d.contexts[n], d.continuations[n]), n)
        for d in task.documents
        for n in range(len(d.contexts))
    ]
    for folder in folders:
        harness = HFLM(pretrained=str(folder.folder), device="cpu", dtype="float32", batch_size=1)
        logs = [log for log, _ in harness.loglikelihood(requests)]
        documents, _ = encode_task(folder, task)
        losses = np.concatenate(PrefixScorer(load_model(folder, device="cpu")).score(documents))
        np.testing.assert_allclose(losses, -np.array(logs), atol=1e-3)
