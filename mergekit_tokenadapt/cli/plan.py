"""The command `mergekit-tokenadapt plan`: show what a transplant would do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from mergekit_tokenadapt.cli.base_model import BYTES, BaseSizes, make_transfer, sizes_of
from mergekit_tokenadapt.cli.options import adapt_flags, folder_options
from mergekit_tokenadapt.terminal.tables import plain, quoted, say
from mergekit_tokenadapt.terminal.visible import json_text

if TYPE_CHECKING:  # it imports torch, which --help does not need
    from mergekit_tokenadapt.transfer.transfer import Transfer

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt plan ./SmolLM2-135M-Instruct ./deepseek-tokenizer
  mergekit-tokenadapt plan ./model ./tokenizer --pad-to-multiple-of 64 --untie --json
"""

SAMPLES = 6
"""Tokens shown for each reason."""


@click.command("plan", epilog=EXAMPLES)
@click.argument("base")
@click.argument("target")
@adapt_flags()
@folder_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def plan_command(
    base: str,
    target: str,
    adapt: dict[str, Any],
    pad_to_multiple_of: int | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Print what `transplant` would do: tokens by reason, sizes, memory.

    Takes the options of `transplant` that decide about rows. Reads only tokenizers and config.json, no weights.
    """
    transfer = make_transfer(base, target, adapt, quiet=True, pad_to_multiple_of=pad_to_multiple_of)
    before = sizes_of(transfer.base)
    after = replace(
        before,
        matrices=2 if adapt.get("untie") else before.matrices,
        bytes_per_number=BYTES[dtype] if dtype else before.bytes_per_number,
    )
    report = {**_tokens(transfer), **_sizes(transfer, before, after)}
    if as_json:
        click.echo(json_text(report))
    else:
        _print(report, base, target)


def _tokens(transfer: Transfer) -> dict[str, Any]:
    from mergekit_tokenadapt.transfer.matching import Reason

    base, target, mapping = transfer.base.vocabulary, transfer.target.vocabulary, transfer.mapping
    counts, pieces = mapping.counts(), transfer.pieces.counts
    samples = {}
    for reason in Reason:
        ids = mapping.ids(reason)
        spread = ids[:: max(1, len(ids) // SAMPLES)][:SAMPLES].tolist()
        samples[reason.name.lower()] = [target.by_id[i].label for i in spread if i in target.by_id]
    has_twins = transfer.method.unreachable_as_mean and not mapping.is_identity
    special = sum(counts.values()) - counts["copied"] - counts["special"] - counts["padding"] - len(transfer.new_tokens)
    return {
        "base_tokens": len(base),
        "target_tokens": len(target),
        "rows_by_reason": counts,
        "samples": samples,
        "new_special_tokens": special,
        "pieces_per_new_token": round(float(pieces.mean()), 2) if len(pieces) else None,
        "new_tokens_without_pieces": int((pieces == 0).sum()),
        "byte_twins_as_mean": len(target.byte_twins) if has_twins else 0,
    }


def _sizes(transfer: Transfer, before: BaseSizes, after: BaseSizes) -> dict[str, Any]:
    rows = {"base_rows": before.rows, "target_rows": transfer.num_rows}
    if before.hidden_size is None:
        return rows
    parameters = [s.matrices * n * before.hidden_size for s, n in zip((before, after), rows.values(), strict=True)]
    # Making rows holds one old and one new matrix, and a float32 copy of the rows that are composed.
    row = before.hidden_size * before.bytes_per_number
    memory = (sum(rows.values()) * row) + 4 * before.hidden_size * len(transfer.new_tokens)
    return {
        **rows,
        "vocabulary_parameters_before": parameters[0],
        "vocabulary_parameters_after": parameters[1],
        "bytes_before": parameters[0] * before.bytes_per_number,
        "bytes_after": parameters[1] * after.bytes_per_number,
        "estimated_memory": memory,
    }


def _print(report: dict[str, Any], base: str, target: str) -> None:
    console = Console()
    say(console, f"{target} onto {base}")
    table = Table()
    table.add_column("reason", no_wrap=True, min_width=7)
    table.add_column("rows", no_wrap=True, min_width=9, justify="right")
    table.add_column("share", no_wrap=True, min_width=6, justify="right")
    table.add_column("for instance", overflow="ellipsis", no_wrap=True)
    total = sum(report["rows_by_reason"].values())
    for reason, count in report["rows_by_reason"].items():
        examples = " ".join(map(quoted, report["samples"][reason]))
        table.add_row(reason, f"{count:,}", f"{count / total:.1%}", plain(examples, overflow="ellipsis"))
    console.print(table)
    lines = {
        "tokens": f"{report['base_tokens']:,} -> {report['target_tokens']:,}",
        "rows": f"{report['base_rows']:,} -> {report['target_rows']:,}",
        "pieces per new token": report["pieces_per_new_token"],
        "new tokens without pieces": f"{report['new_tokens_without_pieces']:,} (they become the mean row)",
        "special tokens without counterpart": f"{report['new_special_tokens']:,} (they become the mean row)",
    }
    if report["byte_twins_as_mean"]:
        lines["byte twins, never produced"] = f"{report['byte_twins_as_mean']:,} (they become the mean row)"
    if "bytes_after" in report:
        before, after = report["vocabulary_parameters_before"], report["vocabulary_parameters_after"]
        lines["vocabulary parameters"] = f"{before / 1e6:,.1f} M -> {after / 1e6:,.1f} M"
        lines["vocabulary tensors"] = f"{report['bytes_before'] / 1e6:,.0f} MB -> {report['bytes_after'] / 1e6:,.0f} MB"
        lines["memory for making rows, about"] = f"{report['estimated_memory'] / 1e6:,.0f} MB"
    for name, value in lines.items():
        say(console, f"{name + ':':36}{value}")
