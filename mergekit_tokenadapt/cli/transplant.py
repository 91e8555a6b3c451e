"""The command `mergekit-tokenadapt transplant`: make a recipe from flags, and let mergekit run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import yaml

from mergekit_tokenadapt.cli.generated_options import flags_of
from mergekit_tokenadapt.cli.heal_after import healing_stage, untied_maker
from mergekit_tokenadapt.cli.options import CommandT, Positional, adapt_flags, folder_options, output_argument
from mergekit_tokenadapt.cli.pair_options import report_printer, say_what_next
from mergekit_tokenadapt.healing.options import HealAfterOptions
from mergekit_tokenadapt.plugin.merge_options import OUT_SHARD_SIZE, MergeOptions, PrettyPrintHelp, add_merge_options

EXAMPLES = """\b
Examples:
  mergekit-tokenadapt transplant ./SmolLM2-135M-Instruct ./deepseek-tokenizer ./out
  mergekit-tokenadapt transplant HuggingFaceTB/SmolLM2-135M Qwen/Qwen3-0.6B ./out --rows donor
  mergekit-tokenadapt transplant ./model ./tokenizer ./out --method calibrated --calibration-text ./texts --untie
  mergekit-tokenadapt transplant ./model ./tokenizer ./out --method hybrid -O global_weight=0.4 \\
      --auxiliary sentence-transformers/all-MiniLM-L6-v2 --token-map "<|im_end|>=<end_of_turn>"
"""


def _merge_options(command: CommandT) -> CommandT:
    """mergekit's options, but smaller shards by default: see `OUT_SHARD_SIZE`."""
    command = add_merge_options(command)
    for option in command.__click_params__:  # type: ignore[attr-defined]
        if option.name == "out_shard_size":
            option.default, option.help = (
                OUT_SHARD_SIZE,
                "Largest size of an output shard, such as 500M or 1B (a billion bytes); memory has to hold one.  "
                "[default: 1B]",
            )
    return command


def _named_device(options: MergeOptions) -> str | None:
    """The device that the user named. Without one, mergekit takes the CPU, and healing (None) the best there is."""
    is_named = click.get_current_context().params["device"] is not None
    return options.device if is_named or options.device != "cpu" else None


@click.command("transplant", cls=PrettyPrintHelp, epilog=EXAMPLES)
@click.argument("base", cls=Positional)
@click.argument("target", cls=Positional)
@output_argument
@adapt_flags()
@folder_options
@flags_of(HealAfterOptions, "healing")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option("--print-recipe", is_flag=True, help="Print the recipe for mergekit-yaml, and stop.")
@_merge_options
def transplant_command(
    merge_options: MergeOptions,
    base: str,
    target: str,
    out: str,
    adapt: dict[str, Any],
    pad_to_multiple_of: int | None,
    dtype: str | None,
    force: bool,
    print_recipe: bool,
    healing: HealAfterOptions,
) -> None:
    """Write OUT: the model BASE with the tokenizer TARGET, all other weights unchanged.

    BASE is a model folder or hub id, with a LoRA adapter as BASE+ADAPTER. TARGET is a folder or hub id with a
    tokenizer; it needs no weights. OUT appears only when it is complete. A report shows how many rows were copied or
    composed, and what else changed.
    """
    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    def recipe_of(block: Mapping[str, Any]) -> dict[str, Any]:
        return make_recipe(base, target, block, dtype=dtype, pad_to_multiple_of=pad_to_multiple_of)

    merge_options.apply_global_options()
    recipe = recipe_of(adapt)
    if print_recipe:
        click.echo(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), nl=False)
        return
    finish = healing_stage(
        healing,
        base,
        out,
        force=force,
        quiet=merge_options.quiet,
        device=_named_device(merge_options),
        trust_remote_code=merge_options.trust_remote_code,
        make_untied=untied_maker(adapt, lambda folder, block: run_recipe(recipe_of(block), folder, merge_options)),
    )
    folder = run_recipe(recipe, out, merge_options, force=force, finish=finish, listener=report_printer(base, target))
    if not merge_options.quiet:
        say_what_next(folder, base)
