"""docs/supertokens-measured.md, from the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.supertokens.cases import CURVE_MB, LANGUAGES, MIXTURE_MB, MODELS, SIZES, VARIANT_MB, VARIANTS
from benchmarks.supertokens.healed_page import section


def page(results: dict[str, Any], keys: Sequence[str]) -> str:
    """The Markdown page; it also names those of the keys of all runs that have no result yet."""
    runs = results["runs"]
    lines = ["# Supertokens, measured", "", *_about(results)]
    lines += ["", "## Saving against the amount of text: English, 64,000 tokens", "", *_curve(runs)]
    lines += ["", f"## Options: English, {VARIANT_MB} MB, 64,000 tokens", "", *_variants(runs)]
    for size in SIZES:
        lines += ["", f"## All texts together, {size:,} tokens", "", *_sizes(runs, size)]
    lines += ["", "## SmolLM2-135M-Instruct on a supertoken vocabulary", "", *_models(runs)]
    if found := section(runs, results.get("healed", {})):
        lines += ["", *found]
    missing = [key for key in keys if key not in runs]
    if missing:
        lines += ["", "## Not measured yet", "", "The same command goes on with these:", ""]
        lines += [f"- `{key}`" for key in missing]
    return "\n".join(lines) + "\n"


def _about(results: dict[str, Any]) -> list[str]:
    packages = ", ".join(f"{k} {v}" for k, v in sorted(results["setting"]["packages"].items()))
    lines = [
        "`python -m benchmarks.supertokens` makes this page; all figures are in",
        "[results/supertokens.json](../benchmarks/results/supertokens.json). All",
        "measurements use held-out documents, from which nothing was learned.",
        "The machine did other work at the same time. Training time is therefore CPU time of all threads, and",
        "encoding speed is text per CPU time, the best",
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
