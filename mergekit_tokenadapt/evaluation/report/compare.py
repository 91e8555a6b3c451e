"""Terminal report of the command `compare`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mergekit_tokenadapt.evaluation.report.tables import lost_notes, marked, print_texts, with_interval
from mergekit_tokenadapt.evaluation.report.tasks import print_tasks
from mergekit_tokenadapt.terminal.tables import add_table, percent, quoted, say, short_names, signed


def print_compare(console: Console, result: dict[str, Any]) -> None:
    """Print the texts, quality, lengths and speed, and which tokens have the loss."""
    models = result["models"]
    names = short_names([m["name"] for m in models])
    others = list(zip(names, models, strict=True))[1:]
    _print_texts(console, result)
    _print_quality(console, names, models)
    _print_best(console, names, result)
    _print_by_domain(console, "Tokens per byte", names, models, lambda d: f"{d['tokens_per_byte']:.3f}")
    _print_by_domain(console, "Characters per token", names, models, lambda d: f"{d['characters_per_token']:.2f}")
    _print_by_domain(
        console,
        "Token perplexity, ratio to the base (not comparable across tokenizers)",
        names,
        models,
        lambda d: f"{d['token_perplexity_ratio']:.2f}",
    )
    add_table(
        console,
        "Speed of scoring",
        ["model", "tokens/s", "bytes/s", "seconds", "first token predicted from"],
        [
            [
                name,
                f"{m['tokens_per_second']:,.0f}",
                f"{m['bytes_per_second']:,.0f}",
                f"{m['seconds']:.1f}",
                m["start_token"] or "nothing: as if all tokens were equally likely",
            ]
            for name, m in zip(names, models, strict=True)
        ],
    )
    for name, model in others:
        _print_shares(console, name, model)
        _print_excess(console, name, model)
    if "tasks" in result:
        print_tasks(console, result["tasks"])
    say(console, result["perplexity_note"])


def _print_texts(console: Console, result: dict[str, Any]) -> None:
    s = result["settings"]
    print_texts(console, result["texts"])
    say(
        console,
        f"Windows of {s['window']} tokens, {s['stride']} scored in each; {s['device']}, {s['dtype']}; "
        f"95 % intervals from {s['resamples']} paired resamples of documents, seed {s['seed']}.\n",
    )


def _print_quality(console: Console, names: list[str], models: list[dict[str, Any]]) -> None:
    columns = ["text", names[0]]
    for name in names[1:]:
        columns += [name, "difference to base"]
    rows = []
    for domain in ["all", *models[0]["domains"]]:
        row = [domain]
        for n, model in enumerate(models):
            d = _domain(model, domain)
            row.append(with_interval(marked(f"{d['bits_per_byte']:.3f}", d), d["interval"]))
            if n:
                row.append(with_interval(signed(d["difference"]), d["difference_interval"]))
        rows.append(row)
    add_table(console, "Bits per byte of the original text (lower is better)", columns, rows)


def _print_best(console: Console, names: list[str], result: dict[str, Any]) -> None:
    for line in (*lost_notes(names, result["models"]), *best_line(names, result)):
        say(console, line)
    console.print()


def best_line(names: list[str], result: dict[str, Any]) -> list[str]:
    """Return a line with the model that needs the fewest bits for all texts, among those that preserve them.

    The list is empty if the report does not say.
    """
    best = (result.get("best") or {}).get("all")
    shown = dict(zip([m["name"] for m in result["models"]], names, strict=True))
    return [f"Fewest bits per byte of all texts: {shown.get(best, best)}."] if best else []


def _print_by_domain(console: Console, title: str, names: list[str], models: list[dict[str, Any]], cell: Any) -> None:
    domains = ["all", *models[0]["domains"]]
    rows = [[domain, *[marked(cell(d), d) for m in models for d in [_domain(m, domain)]]] for domain in domains]
    add_table(console, title, ["text", *names], rows)


def _domain(model: dict[str, Any], name: str) -> dict[str, Any]:
    report: dict[str, Any] = model["all"] if name == "all" else model["domains"][name]
    return report


def _print_shares(console: Console, name: str, model: dict[str, Any]) -> None:
    add_table(
        console,
        f"Where the loss of {name} sits",
        ["tokens that are", "tokens", "bytes", "loss", "bits per byte beyond the base"],
        [
            [what, percent(s["tokens"]), percent(s["bytes"]), percent(s["loss"]), signed(s["excess_bits_per_byte"])]
            for what, s in model["loss_shares"].items()
        ],
    )


def _print_excess(console: Console, name: str, model: dict[str, Any]) -> None:
    columns = ["token", "row", "times", "bits in all", "bits each", "made of"]
    rows = [
        [
            quoted(t["text"]),
            t["reason"],
            str(t["count"]),
            f"{t['excess_bits']:.1f}",
            f"{t['excess_bits_each']:.2f}",
            made_of(t),
        ]
        for t in model["top_excess"]
    ]
    note = origin_note(model)
    if note:  # without the right base, the texts of the old ids are unknown
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    add_table(console, f"Tokens of {name} with the most loss beyond the base", columns, rows)
    if note:
        say(console, note)


def origin_note(model: dict[str, Any]) -> str | None:
    """Return why the report does not say what rows are composed of, or None if it does."""
    note = model.get("origin_note")
    return f"What rows are made of is left out: {note}." if note else None


def made_of(token: dict[str, Any], most: int = 4) -> str:
    """Return the weights and old tokens of a row in one line. It is empty if they are not known."""
    if token["made_of"] is None:
        return ""
    parts = [f"{p['weight']:.2f} {quoted(p['text'])}" for p in token["made_of"]]
    if not parts:
        return "the mean of all old rows"
    return " + ".join(parts[:most]) + (f" + {len(parts) - most} more" if len(parts) > most else "")
