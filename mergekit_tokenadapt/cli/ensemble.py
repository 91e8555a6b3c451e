"""The command `mergekit-tokenadapt ensemble`: average several models, token by token or byte by byte."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.options import SET_BY_PAIR, adapt_flags, refuse_idle
from mergekit_tokenadapt.ensemble.options import ByteOptions, EnsembleOptions
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

if TYPE_CHECKING:
    from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt ensemble ./SmolLM2-135M-Instruct ./gemma-3-270m --out ./pair --method calibrated
  mergekit-tokenadapt-eval compare ./SmolLM2-135M-Instruct ./pair
  mergekit-tokenadapt ensemble ./SmolLM2-135M-Instruct ./gemma-3-270m --prompt "The capital of Fra"
  mergekit-tokenadapt ensemble ./SmolLM2-135M-Instruct ./gemma-3-270m --text prose=./text.txt --max-bytes 500
"""


@click.command("ensemble", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL ...]")
@click.option("-o", "--out", type=click.Path(file_okay=False), help="Lockstep: write this model folder.")
@click.option("--prompt", help="Byte by byte: continue this text, which may end inside a word.")
@click.option("--text", metavar="[NAME=]PATH", help="Byte by byte: score this text.")
@flags_of(EnsembleOptions, "averaging")
@adapt_flags(but=(*SET_BY_PAIR, "chat_template"))  # this is that of the vocabulary's model
@flags_of(ByteOptions, "by_byte")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def ensemble_command(
    models: tuple[str, ...],
    out: str | None,
    prompt: str | None,
    text: str | None,
    averaging: EnsembleOptions,
    adapt: dict[str, Any],
    by_byte: ByteOptions,
    force: bool,
    quiet: bool,
) -> None:
    """Average the probabilities of several models.

    --out averages in lockstep: all models get the vocabulary of one of them, and OUT is a model folder. --prompt and
    --text average byte by byte: the models stay as they are, and a single model is enough.
    """
    if sum(value is not None for value in (out, prompt, text)) != 1:
        raise click.UsageError("give one of --out (lockstep), --prompt or --text (byte by byte)")
    if out is not None:
        refuse_idle(ByteOptions.model_fields, "belongs to --prompt and --text, and --out averages in lockstep")
        from mergekit_tokenadapt.ensemble.build import make_lockstep
        from mergekit_tokenadapt.plugin.merge_options import merge_options

        mergekit_options = merge_options(quiet=quiet)
        folder = make_lockstep(models, out, adapt, averaging, merge_options=mergekit_options, force=force)
        if not quiet:
            click.echo(f"Wrote {folder}", err=True)
        return
    refuse_idle(
        ("target", "options", "force", *AdaptConfig.model_fields),
        "belongs to --out: byte by byte, the models keep their vocabularies and nothing is written",
    )
    if text is not None:
        refuse_idle(("temperature", "seed"), "belongs to --prompt: --text samples nothing")
    _check(models, averaging.weights, text)
    ensemble = _byte_ensemble(models, averaging, by_byte)
    if prompt is not None:
        made = ensemble.generate(prompt, by_byte.max_bytes, temperature=by_byte.temperature, seed=by_byte.seed)
        click.echo(prompt + made.decode("utf-8", errors="replace"))
        return
    assert text is not None
    _score(ensemble, models, text, by_byte.max_bytes)


def _check(models: tuple[str, ...], weights: tuple[float, ...], text: str | None) -> None:
    """Check weights and texts before models are loaded."""
    from mergekit_tokenadapt.ensemble.build import normalised_weights
    from mergekit_tokenadapt.texts import parse_text

    normalised_weights(weights, len(models))
    if text is not None:
        parse_text(text).check("--text")


def _byte_ensemble(models: tuple[str, ...], averaging: EnsembleOptions, by_byte: ByteOptions) -> ByteEnsemble:
    from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble
    from mergekit_tokenadapt.ensemble.byte_model import ByteModel
    from mergekit_tokenadapt.ensemble.canonical import check_supported
    from mergekit_tokenadapt.models.folder import open_model
    from mergekit_tokenadapt.models.loading import load_model

    folders = [open_model(model).with_own_rows() for model in models]
    for folder in folders:
        if folder.is_ensemble:
            raise TokenAdaptError(f"{folder.name} is a lockstep ensemble: name its members instead")
        check_supported(folder.tokenizer)
    members = [ByteModel(load_model(folder), folder.tokenizer, tolerance=by_byte.tolerance) for folder in folders]
    return ByteEnsemble(members, averaging.weights, averaging.mean)


def _score(ensemble: ByteEnsemble, models: tuple[str, ...], text: str, max_bytes: int) -> None:
    from mergekit_tokenadapt.texts import read_text

    document = "\n\n".join(read_text(text).documents).encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")
    if not document:
        raise TokenAdaptError(f"{text}: the first {max_bytes} bytes hold no whole character")
    total, each = ensemble.score(document)
    num_bytes = len(document.encode("utf-8"))
    rows: list[tuple[str, Any]] = [*zip(models, each.tolist(), strict=True), ("all together", total)]
    for name, bits in rows:
        click.echo(f"{bits / num_bytes:.3f} bits per byte   {name}")
    click.echo(f"{num_bytes:,} bytes", file=sys.stderr)
