"""The command `mergekit-tokenadapt`."""

from __future__ import annotations

import click

from mergekit_tokenadapt.cli.lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    commands_in={
        "transplant": "mergekit_tokenadapt.cli.transplant:transplant_command",
        "heal": "mergekit_tokenadapt.cli.heal:heal_command",
        "plan": "mergekit_tokenadapt.cli.plan:plan_command",
        "explain": "mergekit_tokenadapt.cli.explain:explain_command",
        "distill-prep": "mergekit_tokenadapt.cli.distill_prep:distill_prep_command",
        "align": "mergekit_tokenadapt.cli.align:align_command",
        "restore": "mergekit_tokenadapt.cli.restore:restore_command",
        "draft": "mergekit_tokenadapt.cli.draft:draft_command",
        "ensemble": "mergekit_tokenadapt.cli.ensemble:ensemble_command",
        "methods": "mergekit_tokenadapt.cli.methods:methods_command",
        "recipes": "mergekit_tokenadapt.cli.recipes:recipes_command",
        "supertokens": "mergekit_tokenadapt.cli.supertokens:supertokens_group",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mergekit-tokenadapt")
def main() -> None:
    """Give a language model another tokenizer without training.

    BASE is a model folder or hub id. TARGET is a tokenizer folder or hub id; it needs no weights.

    \b
    mergekit-tokenadapt plan ./model ./tokenizer
    mergekit-tokenadapt transplant ./model ./tokenizer ./out
    mergekit-tokenadapt heal ./out ./out-healed --text ./texts --minutes 15
    mergekit-tokenadapt explain ./model ./tokenizer --token " example"
    mergekit-tokenadapt methods
    mergekit-tokenadapt recipes tokenizer_swap_calibrated
    mergekit-tokenadapt supertokens extend ./model --text ./texts --add 8000 ./tokenizer

    A recipe for stock mergekit does the same with a tokenizer.adapt block: see the README.
    """


if __name__ == "__main__":
    main()
