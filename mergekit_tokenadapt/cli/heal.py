"""`mergekit-tokenadapt heal`: a little training after the swap."""

from __future__ import annotations

import click
from rich.console import Console

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.heal_after import line_printer, say_one_kind
from mergekit_tokenadapt.cli.options import output_argument, refuse_idle
from mergekit_tokenadapt.healing.options import HealOptions

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt heal ./out ./out-healed --text ./notes --text code=./src --minutes 15
  mergekit-tokenadapt heal ./out ./out-healed --base ./model --text chat=./chats.jsonl,field=body --train all
"""


@click.command("heal", epilog=EXAMPLES)
@click.argument("model")
@output_argument
@click.option("--base", metavar="BASE", help="The model that MODEL was made from.  [default: as tokenadapt.json says]")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A file, a folder, .jsonl (,field=NAME; lines with messages are conversations), or hf:ID (,config= "
    ",split= ,field=). Repeatable.  [default: Python's own library, and sums]",
)
@flags_of(HealOptions, "options")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--trust-remote-code", is_flag=True, help="Let the models' own code run.")
@click.option("--quiet", is_flag=True, help="No progress, no table.")
def heal_command(
    model: str,
    out: str,
    base: str | None,
    texts: tuple[str, ...],
    options: HealOptions,
    force: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Write OUT: the transplanted model MODEL after some minutes of training to predict what its base predicts.

    One passage in ten of each text is held out. The weights that are best on these passages are kept. If none are
    better than MODEL's, OUT is MODEL as it was. The run ends within --minutes, if these are enough to read and to
    measure. Ctrl-C or SIGTERM during training ends it with the best weights so far, and a second one stops at once. If
    a run was killed, give the same command again: it continues.
    """
    from mergekit_tokenadapt.healing.passages import read_healing_texts
    from mergekit_tokenadapt.healing.report import print_healed
    from mergekit_tokenadapt.healing.run import heal

    if options.train == "rows":
        refuse_idle(("rank", "rate"), "does nothing with --train rows")
    if options.objective != "base_model":
        refuse_idle(("text_share", "copies", "plain_share"), f"does nothing with --objective {options.objective}")
    result = heal(
        model,
        out,
        read_healing_texts(texts),
        options,
        base=base,
        force=force,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
        say=line_printer(quiet=quiet),
    )
    if result.is_first and not quiet:
        print_healed(Console(), result.record)
        say_one_kind(texts, "--text")
        click.echo(f"Wrote {result.folder}", err=True)
