"""The comparison as one self-contained web page. It needs no network and no script, and suits small screens."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from mergekit_tokenadapt.evaluation.report import charts
from mergekit_tokenadapt.evaluation.report.compare import best_line, made_of, origin_note
from mergekit_tokenadapt.evaluation.report.tables import lost_notes, marked
from mergekit_tokenadapt.evaluation.report.tasks import notes_of, score_table, title_of
from mergekit_tokenadapt.terminal.tables import percent, quoted, short_names, signed
from mergekit_tokenadapt.texts import LANGUAGES

STYLE = """
:root { --ink: #1c2127; --soft: #5c6670; --line: #d9dee3; --paper: #ffffff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #38414a; --paper: #14181c; --card: #1c2127; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: 8px; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .inside { fill: #ffffff; font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
.key { list-style: none; padding: 0; margin: .3rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
.key li { overflow-wrap: anywhere; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.5rem; overflow-wrap: break-word; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
.words { text-align: left; white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .95em; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def compare_page(result: dict[str, Any]) -> str:
    """Return the page for a result of `compare`."""
    models = result["models"]
    names = short_names([m["name"] for m in models])
    title = f"{', '.join(names[1:])} compared with {names[0]}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _settings(result),
        _key([(name, charts.colour(n)) for n, name in enumerate(names)]),
        f'<div class="plots">{_quality_plot(models)}{_length_plot(models)}</div>',
        "<h2>Bits per byte of the original text</h2>",
        "<p>Lower is better; comparable across tokenizers. In brackets the 95 % interval over documents.</p>",
        _quality_table(names, models),
        *[f"<p>{escape(line)}</p>" for line in (*lost_notes(names, models), *best_line(names, result))],
        "<h2>Lengths</h2>",
        _length_table(names, models),
        *[_model_section(name, model) for name, model in zip(names[1:], models[1:], strict=True)],
        *_task_section(result.get("tasks")),
        "<h2>Speed of scoring</h2>",
        _speed_table(names, models),
        "<h2>What was scored</h2>",
        _text_table(result["texts"]),
        f'<p class="soft">{escape(result["perplexity_note"])}</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _settings(result: dict[str, Any]) -> str:
    s = result["settings"]
    documents = sum(t["documents"] for t in result["texts"])
    size = sum(t["bytes"] for t in result["texts"])
    return (
        f'<p class="soft">{documents:,} documents, {size:,} bytes. '
        f"Windows of {s['window']} tokens, {s['stride']} scored in each; {s['device']}, {s['dtype']}. "
        f"Intervals from {s['resamples']} paired resamples, seed {s['seed']}.</p>"
    )


# --- parts of the page ---------------------------------------------------------------------------


def _key(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><i style="background:{tint}"></i>{escape(name)}</li>' for name, tint in entries)
    return f'<ul class="key">{items}</ul>'


def _figure(caption: str, picture: str, key: str = "") -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{key}{picture}</figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: frozenset[int] = frozenset()) -> str:
    """Return a table that scrolls on its own on narrow screens. Cells of the columns `words` are text."""
    kinds = [' class="words"' if n in words else "" for n in range(len(columns))]
    head = "".join(f"<th{kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True))
    cells = ["".join(f"<td{kind}>{c}</td>" for kind, c in zip(kinds, row, strict=True)) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# --- all models ----------------------------------------------------------------------------------


def _domains(models: Sequence[dict[str, Any]]) -> list[str]:
    return ["all", *models[0]["domains"]]


def _of(model: dict[str, Any], domain: str) -> dict[str, Any]:
    report: dict[str, Any] = model["all"] if domain == "all" else model["domains"][domain]
    return report


def _quality_plot(models: Sequence[dict[str, Any]]) -> str:
    domains = _domains(models)
    values = [[_of(m, d)["bits_per_byte"] for d in domains] for m in models]
    intervals = [[_of(m, d)["interval"] for d in domains] for m in models]
    caption = "Bits per byte, by text"
    return _figure(caption, charts.dot_plot(caption, "bits per byte", domains, values, intervals))


def _length_plot(models: Sequence[dict[str, Any]]) -> str:
    languages = [d for d in models[0]["domains"] if d in LANGUAGES] or list(models[0]["domains"])
    values = [[m["domains"][d]["tokens_per_byte"] for d in languages] for m in models]
    caption = "Tokens per byte, by language" if languages[0] in LANGUAGES else "Tokens per byte, by text"
    return _figure(caption, charts.bars(caption, "tokens per byte", languages, values))


def _quality_table(names: Sequence[str], models: Sequence[dict[str, Any]]) -> str:
    columns = ["text", names[0]]
    for name in names[1:]:
        columns += [name, "difference", "token perplexity ratio (not comparable)"]
    rows = []
    for domain in _domains(models):
        row = [escape(domain)]
        for n, model in enumerate(models):
            d = _of(model, domain)
            row.append(f"{marked(format(d['bits_per_byte'], '.3f'), d)}{_bounds(d['interval'])}")
            if n:
                row.append(f"{signed(d['difference'])}{_bounds(d['difference_interval'])}")
                row.append(f"{d['token_perplexity_ratio']:.2f}")
        rows.append(row)
    return _table(columns, rows)


def _bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f' <span class="soft">[{interval[0]:.3f}, {interval[1]:.3f}]</span>'


def _length_table(names: Sequence[str], models: Sequence[dict[str, Any]]) -> str:
    columns = ["text", *[f"tokens per byte, {n}" for n in names], *[f"characters per token, {n}" for n in names]]
    rows = [
        [
            escape(domain),
            *[marked(f"{d['tokens_per_byte']:.3f}", d) for d in found],
            *[marked(f"{d['characters_per_token']:.2f}", d) for d in found],
        ]
        for domain in _domains(models)
        for found in [[_of(m, domain) for m in models]]
    ]
    return _table(columns, rows)


def _task_section(tasks: dict[str, Any] | None) -> list[str]:
    if tasks is None:
        return []
    columns, rows = score_table(tasks)
    return [
        f"<h2>{escape(title_of(tasks))}</h2>",
        _table(columns, [[escape(c) for c in row] for row in rows]),
        *[f"<p>{escape(line)}</p>" for line in notes_of(tasks)],
    ]


def _speed_table(names: Sequence[str], models: Sequence[dict[str, Any]]) -> str:
    columns = ["model", "tokens/s", "bytes/s", "seconds", "first token predicted from"]
    rows = [
        [
            escape(name),
            f"{m['tokens_per_second']:,.0f}",
            f"{m['bytes_per_second']:,.0f}",
            f"{m['seconds']:.1f}",
            f"<code>{escape(m['start_token'])}</code>" if m["start_token"] else "nothing (uniform)",
        ]
        for name, m in zip(names, models, strict=True)
    ]
    return _table(columns, rows)


def _text_table(texts: Sequence[dict[str, Any]]) -> str:
    columns = ["text", "documents", "bytes", "left out (empty)", "repaired", "source", "sha256"]
    rows = [
        [
            escape(t["name"]),
            f"{t['documents']:,}",
            f"{t['bytes']:,}",
            str(t["empty_left_out"]),
            str(t["repaired"]),
            escape(t["source"]),
            f"<code>{t['sha256']}</code>",
        ]
        for t in texts
    ]
    return _table(columns, rows, words=frozenset({5}))


# --- one model -----------------------------------------------------------------------------------


def _model_section(name: str, model: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in model["rows_by_reason"].items())
    figures = [_share_plot(model)]
    if "row_view" in model:
        figures += _row_plots(model["row_view"])
    return "\n".join(
        [
            f"<h2>{escape(name)}: where the loss sits</h2>",
            f'<p class="soft">Rows: {escape(counts)}.</p>',
            f'<div class="plots">{"".join(figures)}</div>',
            _share_table(model),
            f"<h2>{escape(name)}: tokens with the most loss beyond the base</h2>",
            "<p>A token's loss, less what the base model needs for the same bytes.</p>",
            _excess_table(model),
        ]
    )


def _share_plot(model: dict[str, Any]) -> str:
    shares = model["loss_shares"]
    rows = [(what, {name: share[what] for name, share in shares.items()}) for what in ("tokens", "bytes", "loss")]
    caption = "Share of new, copied and following tokens"
    key = _key([(name, charts.CLASS_COLOURS[name]) for name in shares])
    return _figure(caption, charts.stacked_shares(caption, rows), key)


def _row_plots(view: dict[str, Any]) -> list[str]:
    key = _key([(f"{name}: {view[name]['rows']:,} rows", charts.ROW_COLOURS[name]) for name in ("old", "new")])
    lengths = "Lengths of input rows, as shares of each kind"
    histogram = charts.histogram(
        lengths, "Euclidean norm", view["edges"], {name: view[name]["histogram"] for name in ("old", "new")}
    )
    points = {name: view[name]["points"] for name in ("old", "new")}
    caption = f"Old and new rows on the old rows' two main axes ({percent(view['explained'])} of their variance)"
    figures = [_figure(lengths, histogram, key)]
    if all(points.values()):
        figures.append(_figure(caption, charts.scatter(caption, points), key))
    return figures


def _share_table(model: dict[str, Any]) -> str:
    rows = [
        [
            name,
            percent(s["tokens"]),
            percent(s["bytes"]),
            percent(s["loss"]),
            signed(s["excess_bits_per_byte"]),
        ]
        for name, s in model["loss_shares"].items()
    ]
    return _table(["tokens that are", "tokens", "bytes", "loss", "excess, bits per byte"], rows)


def _excess_table(model: dict[str, Any]) -> str:
    columns = ["token", "row", "times", "bits in all", "bits each", "row made of"]
    rows = [
        [
            f"<code><bdi>{escape(quoted(t['text']))}</bdi></code>",
            t["reason"],
            str(t["count"]),
            f"{t['excess_bits']:.1f}",
            f"{t['excess_bits_each']:.2f}",
            f"<code><bdi>{escape(made_of(t))}</bdi></code>",
        ]
        for t in model["top_excess"]
    ]
    if note := origin_note(model):
        return _table(columns[:-1], [row[:-1] for row in rows]) + f'<p class="soft">{escape(note)}</p>'
    return _table(columns, rows, words=frozenset({5}))
