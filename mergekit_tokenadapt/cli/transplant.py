"""`mergekit-tokenadapt transplant`: the recipe from flags, run by mergekit."""

from __future__ import annotations

from typing import Any

import click
import yaml
from mergekit.options import MergeOptions, PrettyPrintHelp, add_merge_options

from mergekit_tokenadapt.cli.options import CommandT, adapt_block, adapt_options
from mergekit_tokenadapt.cli.pair_options import report_printer, say_what_next
from mergekit_tokenadapt.plugin.merge_options import OUT_SHARD_SIZE

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt transplant ./SmolLM2-135M-Instruct ./deepseek-tokenizer ./out
  mergekit-tokenadapt transplant HuggingFaceTB/SmolLM2-135M Qwen/Qwen3-0.6B ./out --rows donor
  mergekit-tokenadapt transplant ./model ./tokenizer ./out --method calibrated --calibration-text ./texts --untie
  mergekit-tokenadapt transplant ./model ./tokenizer ./out --method hybrid -o global_weight=0.4 \\
      --auxiliary sentence-transformers/all-MiniLM-L6-v2 --token-map "<|im_end|>=<end_of_turn>"
"""


class _Rows(click.ParamType):  # type: ignore[type-arg]
    name = "exact|donor|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int) or value in ("exact", "donor"):
            return value
        if value.isdecimal() and int(value) > 0:
            return int(value)
        self.fail("take exact, donor or a number of rows", param, ctx)


def _merge_options(command: CommandT) -> CommandT:
    """mergekit's options, but smaller shards by default: see `OUT_SHARD_SIZE`."""
    command = add_merge_options(command)
    for option in command.__click_params__:  # type: ignore[attr-defined]
        if option.name == "out_shard_size":
            option.default, option.help = OUT_SHARD_SIZE, "Bytes per output shard, held in memory.  [default: 1B]"
    return command


@click.command("transplant", cls=PrettyPrintHelp, epilog=EXAMPLES)
@click.argument("base")
@click.argument("target")
@click.argument("out", type=click.Path(file_okay=False))
@adapt_options
@click.option("--rows", type=_Rows(), help="Rows of the vocabulary matrices.  [default: highest id + 1]")
@click.option("--pad-to-multiple-of", type=click.IntRange(min=1), help="Round the number of rows up.")
@click.option(
    "--calibration-text",
    metavar="default|FILE|FOLDER",
    help="Correct the output rows with this text; `default` is the source of Python's own library.",
)
@click.option("--untie", is_flag=True, default=None, help="Give a tied model an output matrix of its own.")
@click.option("--chat-template", metavar="target|base|FILE", help="Whose chat template.  [default: target]")
@click.option("--dtype", help="dtype of the output, for instance bfloat16.  [default: as BASE]")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--print-recipe", is_flag=True, help="Print the recipe for mergekit-yaml, and stop.")
@_merge_options
def transplant_command(
    merge_options: MergeOptions,
    base: str,
    target: str,
    out: str,
    method: str,
    auxiliary: str,
    options: tuple[str, ...],
    token_map: tuple[str, ...],
    rows: Any,
    pad_to_multiple_of: int | None,
    calibration_text: str | None,
    untie: bool | None,
    chat_template: str | None,
    dtype: str | None,
    force: bool,
    print_recipe: bool,
) -> None:
    """Make OUT: the model BASE with the tokenizer TARGET, all other weights untouched.

    OUT appears when it is complete, or not at all.
    """
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    merge_options.apply_global_options()
    more = {"calibration_text": calibration_text, "untie": untie, "rows": rows, "chat_template": chat_template}
    adapt = adapt_block(method, auxiliary, options, token_map, **more)
    recipe = make_recipe(base, target, adapt, dtype=dtype, pad_to_multiple_of=pad_to_multiple_of)
    if print_recipe:
        click.echo(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), nl=False)
        return
    folder = run_recipe(recipe, out, merge_options, force=force, listener=report_printer(base, target))
    if not merge_options.quiet:
        say_what_next(folder, base)
