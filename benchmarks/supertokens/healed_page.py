"""The section of docs/supertokens-measured.md on models before and after healing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common.earlier import CHANGE
from benchmarks.common.gaps import Scores, bits_per_byte, change, counts_of
from benchmarks.common.results import in_words
from benchmarks.supertokens.healed import (
    DOCUMENTS,
    HEALED,
    HELD_OUT_DOCUMENTS,
    MODELS,
    PASSAGE,
    PROMPTED,
    PROMPTS,
    STARTS,
    STEPS,
    TASKS,
)
from benchmarks.tasks.cases import BASE
from benchmarks.tasks.cases import TASKS as ALL_TASKS
from benchmarks.tasks.shares import GOLD, shares_kept, values
from mergekit_tokenadapt.evaluation.bootstrap import interval
from mergekit_tokenadapt.texts.builtin import LANGUAGES

HEAD = "## 8,000 supertokens before and after healing"
ABOUT = f"""SmolLM2-135M-Instruct gets {{added:,}} supertokens, learned from {{learned}}: the first documents
of at most 200 KB of the texts in the table above. Their rows are made by `mean`, as in ReTok (arXiv 2410.04335), or by
`calibrated` with `--untie`. Both models are then healed on the same documents for {STEPS} steps, with `--plain-share 0`
and otherwise the defaults of `heal`{{healing}}.

Square brackets hold 95% intervals of a bootstrap over documents or prompts, paired with the base model. Each healing
was done once, with one seed. Healing also trains the model on text of the same sources as the held-out text below.
Part of what it gains there would be gained without new tokens, too.

Rows that use the space `ngram` (those of `calibrated` and others) {CHANGE}

One thread; the machine did other work at the same time. {{versions}}.
"""
TOKENS = f"""### Tokens saved

Held-out text has the sources of the text that the supertokens are learned from: {PASSAGE:,} characters from the middle
of each of {HELD_OUT_DOCUMENTS} documents, from which nothing was learned. Built-in texts are of other sources, and
short. All extended models have the same tokenizer.
"""
BITS = """### Bits per byte

The same texts. Lower is better. In brackets: the difference from the base model.
"""
WRITING = f"""### Generation

Greedy generation of {{tokens}} tokens after each of {{prompts}} prompts, {PROMPTS} from each of: {", ".join(PROMPTED)}.
Speeds are per second of CPU time. *Own text* is what the model writes. The last two columns say how many bytes per
second there would be if the model wrote the held-out text: tokens per second times that text's bytes per token.
The new rows add 3% to the weights that a step reads. The models were timed one after the other, and larger
differences in tokens per second are probably due to other work on the machine.
"""
SCORES = f"""### Scores kept

Shares of the base model's score, as on [tasks.md](tasks.md): base / score in bits per byte of the gold answer for
{{gold}}, score / base in accuracy for {{choice}}. Above 100% is better than the base model.
{DOCUMENTS} documents a task.{{chance}}
"""
Runs = Mapping[str, Any]


def section(runs: Runs, about: Mapping[str, Any]) -> list[str]:
    """The lines of the section; none where nothing was measured.

    Args:
        runs: all cells of the benchmark.
        about: what the results say of the text and the versions.
    """
    cells = {key.removeprefix("healed | "): cell for key, cell in runs.items() if key.startswith("healed | ")}
    if not cells:
        return []
    tables = (tokens_table(cells), bits_table(cells), writing_table(cells), scores_table(cells))
    lines = [HEAD, "", ABOUT.format(**_about(cells, about)), _made(cells)]
    for words, table in zip((TOKENS, BITS, _of_writing(cells), _of_scores(cells)), tables, strict=True):
        lines += [words, *table, ""]
    return lines[:-1]


def _about(cells: Runs, about: Mapping[str, Any]) -> dict[str, Any]:
    learned = [f"{size / 1e6:.0f} MB of {name}" for name, size in about["learned from"].items()]
    done = next((cells[f"{model} | making"] for model in HEALED if f"{model} | making" in cells), None)
    healing = f": {done['passages']} passages, {done['tokens']:,} tokens" if done else ""
    return {
        "added": about["added"],
        "learned": " and ".join(learned),
        "healing": healing,
        "versions": in_words(about["setting"]["packages"]),
    }


def _probe(name: str) -> str:
    """A name in the list of `heal`, in words."""
    name = name.removesuffix(" (built-in)")
    return LANGUAGES.get(name, f"built-in {name}")


def _made(cells: Runs) -> str:
    """Which of the passages that healing measures got worse."""
    lines = [
        f"- {model}: {', '.join(map(_probe, done['worse'])) or 'none'}."
        for model in HEALED
        if (done := cells.get(f"{model} | making"))
    ]
    if not lines:
        return ""
    return "Texts of which `heal` itself says that they got more than 0.5% worse:\n\n" + "\n".join(lines) + "\n"


# --- tables --------------------------------------------------------------------------------------


def tokens_table(cells: Runs) -> list[str]:
    """Tokens saved on each text, and the share of tokens that are new."""
    base, one = cells[f"{BASE} | texts"], cells[f"{next(iter(STARTS))} | texts"]
    lines = ["| text | bytes | bytes per token, base model | extended | fewer tokens | new tokens |", "|---" * 6 + "|"]
    for text in base:
        old, new = base[text], one[text]
        size = sum(old["bytes"])
        per_token = [size / sum(found["tokens"]) for found in (old, new)]
        saved = _percent(saved_tokens(old, new))
        share = sum(new["new"]) / sum(new["tokens"])
        lines.append(f"| {text} | {size:,} | {per_token[0]:.2f} | {per_token[1]:.2f} | {saved} | {share:.0%} |")
    return lines


def bits_table(cells: Runs) -> list[str]:
    """Bits per byte of each model on each text, and the difference from the base model."""
    base = cells[f"{BASE} | texts"]
    lines = [f"| model | {' | '.join(base)} |", "|---" * (1 + len(base)) + "|"]
    for model in MODELS:
        if one := cells.get(f"{model} | texts"):
            found = []
            for text in base:
                scores, of_base = _scores(one[text]), _scores(base[text])
                cell = f"{bits_per_byte(scores):.3f}"
                if model != BASE:
                    difference, low, high = change(of_base, scores)
                    cell += f" ({difference:+.3f} [{low:+.3f}, {high:+.3f}])"
                found.append(cell)
            lines.append(f"| {model} | {' | '.join(found)} |")
    return lines


def writing_table(cells: Runs) -> list[str]:
    """How fast each model writes, and how many of its tokens are new."""
    texts = [name for name in PROMPTED if name.startswith("held-out")]
    heads = ["model", "tokens per second", "own text: new tokens", "bytes per token", "bytes per second"]
    heads += ["times the base's", *(f"{text}, bytes per second" for text in texts)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    base = cells[f"{BASE} | writing"]["prompts"]
    for model in MODELS:
        wrote, read = (cells.get(f"{model} | {what}") for what in ("writing", "texts"))
        if wrote and read:
            tokens, new, size, seconds = (
                sum(p[part] for p in wrote["prompts"]) for part in ("tokens", "new", "bytes", "seconds")
            )
            faster = "1" if model == BASE else _times(times_as_fast(base, wrote["prompts"]))
            found = [f"{tokens / seconds:.1f}", f"{new / tokens:.0%}", f"{size / tokens:.2f}", f"{size / seconds:.0f}"]
            given = [f"{tokens / seconds * sum(read[t]['bytes']) / sum(read[t]['tokens']):.0f}" for t in texts]
            lines.append(f"| {' | '.join([model, *found, faster, *given])} |")
    return lines


def scores_table(cells: Runs) -> list[str]:
    """The share of the base model's score that each model keeps, by task."""
    lines = [f"| model | {' | '.join(TASKS)} | answers that begin inside a token |", "|---" * (2 + len(TASKS)) + "|"]
    for model in MODELS:
        found = [(task, cells.get(f"{model} | {task}"), cells.get(f"{BASE} | {task}")) for task in TASKS]
        if any(cell for _, cell, _ in found):
            shown = [_share(task, cell, base) for task, cell, base in found]
            lost = sum(cell["boundaries_lost"] for _, cell, _ in found if cell)
            lines.append(f"| {model} | {' | '.join(shown)} | {lost} |")
    return lines


def _share(task: str, cell: Any, base: Any) -> str:
    if not cell or not base:
        return "not measured"
    if cell is base:
        unit = "bits per byte" if ALL_TASKS[task].metric == GOLD else "right"
        return f"{values(cell, ALL_TASKS[task].metric)[0]:.3f} {unit}"
    return _percent(shares_kept(task, cell, base))


# --- figures with their resamples ----------------------------------------------------------------


def saved_tokens(base: Mapping[str, Sequence[int]], one: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The share of tokens saved on the same documents, then in S resamples of them [1 + S]."""
    counts = counts_of(len(base["tokens"]), np.random.default_rng(0))
    return np.asarray(1 - (counts @ np.array(one["tokens"])) / (counts @ np.array(base["tokens"])))


def times_as_fast(base: Sequence[Mapping[str, Any]], one: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Bytes per second divided by the base model's after the same prompts, then in S resamples of them [1 + S]."""
    counts = counts_of(len(base), np.random.default_rng(0))
    rates = [
        (counts @ np.array([p["bytes"] for p in wrote])) / (counts @ np.array([p["seconds"] for p in wrote]))
        for wrote in (one, base)
    ]
    return np.asarray(rates[0] / rates[1])


def _scores(found: Mapping[str, Any]) -> Scores:
    return list(zip(found["bits"], found["bytes"], strict=True))


def _percent(values_S: np.ndarray) -> str:
    low, high = interval(values_S[1:])
    return f"{values_S[0]:.0%} [{low:.0%}, {high:.0%}]"


def _times(values_S: np.ndarray) -> str:
    low, high = interval(values_S[1:])
    return f"{values_S[0]:.2f} [{low:.2f}, {high:.2f}]"


def _of_writing(cells: Runs) -> str:
    prompts = cells[f"{BASE} | writing"]["prompts"]
    return WRITING.format(tokens=prompts[0]["tokens"], prompts=len(prompts))


def _of_scores(cells: Runs) -> str:
    gold = [task for task in TASKS if ALL_TASKS[task].metric == GOLD]
    choice = [task for task in TASKS if task not in gold]
    guesses = []
    for task in choice:
        if base := cells.get(f"{BASE} | {task}"):
            share = base["documents"] / base["choices"] / values(base, ALL_TASKS[task].metric)[0]
            guesses.append(f"about {share:.0%} of {task}")
    chance = f" Guessing keeps {' and '.join(guesses)}." if guesses else ""
    return SCORES.format(gold=" and ".join(gold), choice=" and ".join(choice), chance=chance)
