"""Two models, one vocabulary: drafts and ensembles of SmolLM2-135M and Gemma 3 270M, measured.

    python -m benchmarks.two_models draft
    python -m benchmarks.two_models acceptance
    python -m benchmarks.two_models lockstep
    python -m benchmarks.two_models byte-by-byte
    python -m benchmarks.two_models token-healing

Each writes its figures into results/two_models.json and prints them; docs/two_models.md quotes them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import models, texts
from benchmarks.common.results import ROOT, Results, versions

RESULTS = Results("two_models")
PACKAGES = ("mergekit-tokenadapt", "torch", "transformers", "tokenizers")

TEXT = (ROOT / "examples/samples/english.txt").read_text(encoding="utf-8")
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a small village by the sea,",
    "The three states of matter are",
    "To bake bread at home, first",
    "import json\n\ndef read_config(path):\n",
]


@click.group()
def main() -> None:
    """Measure what two models on one vocabulary gain."""


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct."""
    return models.fetched("smollm2")


def gemma() -> Path:
    """Return the folder of Gemma 3 270M."""
    return models.fetched("gemma")


def smollm2_on_gemma(method: str, minutes: float | None = None) -> Path:
    """Return SmolLM2 with Gemma's token ids and number of rows; it is made on the first call.

    Args:
        method: makes the rows.
        minutes: of healing on what Gemma writes after English and code; None for none.
    """
    from mergekit_tokenadapt.cli.heal_after import healing_stage
    from mergekit_tokenadapt.healing.options import HealAfterOptions
    from mergekit_tokenadapt.two_models.draft_model import make_draft

    out = models.KEPT / (f"SmolLM2-gemma-{method}" + ("" if minutes is None else f"-healed-{minutes:g}-minutes"))
    if not out.is_dir():
        options = HealAfterOptions()
        if minutes is not None:
            prompts = tuple(f"{name}={texts.mixed() / name}.txt" for name in ("prose", "code"))
            options = HealAfterOptions(heal=True, heal_minutes=minutes, heal_texts=prompts)
        heal = healing_stage(options, str(smollm2()), str(out), force=False, quiet=False, target=str(gemma()))
        make_draft(str(gemma()), str(smollm2()), str(out), {"method": method, "chat_template": "base"}, heal=heal)
    return out


def save(name: str, result: dict[str, Any]) -> None:
    """Write figures into the results, and print them."""
    with RESULTS.change() as results:
        results[name] = {**result, "packages": versions(*PACKAGES), "threads": torch.get_num_threads()}
    click.echo(json.dumps({name: result}, indent=1, ensure_ascii=False))


@main.command()
@click.option("--method", default="calibrated", show_default=True)
@click.option("--new-tokens", default=48, show_default=True)
def draft(method: str, new_tokens: int) -> None:
    """Let SmolLM2 draft for Gemma, with greedy decoding: tokens per run of Gemma, and tokens per second.

    One thread, and its CPU time: other work on the machine hardly matters then.
    """
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    target, small, moved = (
        models.in_float32(gemma()),
        models.in_float32(smollm2()),
        models.in_float32(smollm2_on_gemma(method)),
    )
    tokenizer, small_tokenizer = (AutoTokenizer.from_pretrained(str(f)) for f in (gemma(), smollm2()))
    ways: dict[str, dict[str, Any]] = {
        "no draft": {},
        f"draft, {method}": {"assistant_model": moved},
        "universal assisted generation": {
            "assistant_model": small,
            "tokenizer": tokenizer,
            "assistant_tokenizer": small_tokenizer,
        },
    }
    runs = [0]
    target.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    result: dict[str, Any] = {}
    written: dict[str, list[str]] = {}
    for name, options in ways.items():
        runs[0], tokens, seconds, written[name] = 0, 0, 0.0, []
        for prompt in PROMPTS:
            inputs = tokenizer(prompt, return_tensors="pt")
            started = time.process_time()
            out = target.generate(
                **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, **options
            )
            seconds += time.process_time() - started
            tokens += out.shape[1] - inputs.input_ids.shape[1]
            written[name].append(tokenizer.decode(out[0]))
        result[name] = {
            "tokens": tokens,
            "runs_of_the_target": runs[0],
            "tokens_per_run": round(tokens / runs[0], 3),
            "tokens_per_cpu_second": round(tokens / seconds, 2),
            "same_text_as_without": sum(a == b for a, b in zip(written[name], written["no draft"], strict=True)),
        }
    save("draft", {"target": "gemma-3-270m", "small": "SmolLM2-135M-Instruct", "prompts": len(PROMPTS), "ways": result})


@main.command()
@click.option("--method", default="calibrated", show_default=True)
@click.option("--minutes", default=30.0, show_default=True, help="Time of each healing.")
@click.option("--prompts", default=40, show_default=True, help="Prompts of 32 tokens: starts of built-in texts.")
def acceptance(method: str, minutes: float, prompts: int) -> None:
    """Measure how many tokens of SmolLM2 as a draft Gemma accepts, before and after `draft --heal`; one thread."""
    from mergekit_tokenadapt.evaluation.draft import measure_draft
    from mergekit_tokenadapt.evaluation.options import DraftOptions
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.texts import builtin_text

    torch.set_num_threads(1)
    target = open_model(str(gemma())).with_own_rows()
    found: dict[str, Any] = {}
    folders = {"swapped": smollm2_on_gemma(method), "healed": smollm2_on_gemma(method, minutes)}
    for name, folder in folders.items():
        draft = open_model(str(folder)).with_own_rows(tell=False)
        for kind in ("prose", "code"):
            options = DraftOptions(prompts=prompts // 2)
            found[f"{name}, {kind}"] = measure_draft(target, draft, [builtin_text(kind)], options)["modes"]
    record = json.loads((folders["healed"] / "tokenadapt.json").read_text())["healing"]
    save(
        "acceptance",
        {
            "target": "gemma-3-270m",
            "small": "SmolLM2-135M-Instruct",
            "method": method,
            "minutes": minutes,
            "healing": {key: record[key] for key in ("steps", "tokens", "texts", "held_out")},
            "modes": found,
        },
    )


@main.command()
@click.option("--method", default="calibrated", show_default=True)
@click.option("--num-bytes", default=1000, show_default=True)
def lockstep(method: str, num_bytes: int) -> None:
    """Measure bits per byte of the members, before and after the swap, and of their lockstep ensembles."""
    from transformers import AutoTokenizer

    from mergekit_tokenadapt.ensemble.build import make_lockstep
    from mergekit_tokenadapt.evaluation import bits_per_byte

    text = TEXT.encode()[:num_bytes].decode("utf-8", "ignore")
    moved, pair = smollm2_on_gemma(method), models.KEPT / "pair"
    make_lockstep([str(gemma()), str(moved)], str(pair), {"method": "mean"}, force=True)
    found = {}
    for folder in (gemma(), smollm2(), moved):
        found[folder.name] = bits_per_byte(models.in_float32(folder), AutoTokenizer.from_pretrained(str(folder)), text)
    ensemble, tokenizer = models.in_float32(pair), AutoTokenizer.from_pretrained(str(pair))
    for mean in ("arithmetic", "geometric"):
        ensemble.config.mean = mean
        found[f"lockstep, {mean}"] = bits_per_byte(ensemble, tokenizer, text)
    save("lockstep", {"bytes": len(text.encode()), "method": method, "bits_per_byte": found})


@main.command()
@click.option("--num-bytes", default=300, show_default=True)
@click.option("--tolerance", default=0.01, show_default=True)
def byte_by_byte(num_bytes: int, tolerance: float) -> None:
    """Measure bits per byte of the members and their ensemble byte by byte, and of the members token by token."""
    from transformers import AutoTokenizer

    from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble
    from mergekit_tokenadapt.ensemble.byte_model import ByteModel
    from mergekit_tokenadapt.evaluation import bits_per_byte
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    text = TEXT.encode()[:num_bytes].decode("utf-8", "ignore")
    size = len(text.encode())
    folders = (gemma(), smollm2())
    loaded = [models.in_float32(folder) for folder in folders]
    by_token = {
        folder.name: bits_per_byte(model, AutoTokenizer.from_pretrained(str(folder)), text)
        for folder, model in zip(folders, loaded, strict=True)
    }
    members = [
        ByteModel(model, load_tokenizer(str(folder)), tolerance=tolerance)
        for folder, model in zip(folders, loaded, strict=True)
    ]
    started = time.perf_counter()
    total, each = ByteEnsemble(members).score(text)
    result = {
        "bytes": size,
        "tolerance": tolerance,
        "by_token": by_token,
        "by_byte": dict(zip((f.name for f in folders), (each / size).tolist(), strict=True)),
        "ensemble": total / size,
        "seconds": round(time.perf_counter() - started, 1),
        "runs": [m.num_runs for m in members],
    }
    save("byte_by_byte", result)


@main.command()
@click.option("--num-bytes", default=10, show_default=True, help="Bytes to make.")
def token_healing(num_bytes: int) -> None:
    """Count how often each way of decoding completes the word in which a prompt ends."""
    from transformers import AutoTokenizer

    from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble
    from mergekit_tokenadapt.ensemble.byte_model import ByteModel
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    model, tokenizer = (
        models.in_float32(smollm2()),
        AutoTokenizer.from_pretrained(str(smollm2())),
    )
    files = load_tokenizer(str(smollm2()))
    reader = ByteEnsemble([ByteModel(model, files)])
    sentences = [
        ("The capital of France is Paris. The capital of Germany is Ber", "lin"),
        ("Water boils at one hundred degrees Cels", "ius"),
        ("The opposite of hot is col", "d"),
        ("Shakespeare wrote Romeo and Jul", "iet"),
        ("The first president of the United States was George Wash", "ington"),
        ("Monday, Tuesday, Wednes", "day"),
        ("A triangle has three si", "des"),
        ("The Earth goes around the S", "un"),
        ("In winter it is cold, in summer it is wa", "rm"),
        ("One, two, three, four, fi", "ve"),
    ]
    right = dict.fromkeys(("plain", "token healing", "byte by byte"), 0)
    shown = []
    for prompt, expected in sentences:
        inputs = tokenizer(prompt, return_tensors="pt")
        settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
        made = {"plain": tokenizer.decode(model.generate(**inputs, **settings)[0])[len(prompt) :]}
        made["token healing"] = heal_last_token(model, tokenizer, files, prompt, settings)[len(prompt) :]
        made["byte by byte"] = reader.generate(prompt, num_bytes).decode("utf-8", "replace")
        for way, text in made.items():
            right[way] += text.startswith(expected)
        shown.append({"prompt": prompt, **{way: text[:num_bytes] for way, text in made.items()}})
    save("token_healing", {"right": right, "of": len(sentences), "prompts": shown})


@torch.inference_mode()
def heal_last_token(model: Any, tokenizer: Any, files: Any, prompt: str, settings: dict[str, Any]) -> str:
    """Remove the last token of a prompt, and let the model choose among the tokens that begin with its bytes.

    Written out, because ``token_healing=True`` of transformers 5.23 ends in a KeyError with this tokenizer.
    """
    *ids, last = tokenizer(prompt).input_ids
    begin = files.vocabulary.by_id[last].bytes
    allowed = torch.tensor([t.id for t in files.vocabulary if t.bytes.startswith(begin)])
    logits = model(torch.tensor([ids])).logits[0, -1]
    ids.append(int(allowed[logits[allowed].argmax()]))
    return str(tokenizer.decode(model.generate(torch.tensor([ids]), **settings)[0]))


if __name__ == "__main__":
    main()
