"""The command `mergekit-tokenadapt-eval`."""

from __future__ import annotations

import os

import click

from mergekit_tokenadapt.cli.lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    commands_in={
        "check": "mergekit_tokenadapt.cli.eval_check:check_command",
        "compare": "mergekit_tokenadapt.cli.eval_compare:compare_command",
        "tokenizer": "mergekit_tokenadapt.cli.eval_tokenizer:tokenizer_command",
        "probe-healing": "mergekit_tokenadapt.cli.eval_probe_healing:probe_healing_command",
        "draft": "mergekit_tokenadapt.cli.eval_draft:draft_command",
        "tasks": "mergekit_tokenadapt.cli.eval_tasks:tasks_command",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mergekit-tokenadapt")
def main() -> None:
    """Check whether a model with a new tokenizer is sound, and measure how good it is.

    Works on any transformers model or tokenizer, by folder or hub id. Exit codes: 0 for success, 1 if a check
    failed, 2 for input that cannot be used.

    \b
    mergekit-tokenadapt-eval check ./out --base ./model
    mergekit-tokenadapt-eval compare ./model ./out --html report.html
    mergekit-tokenadapt-eval tokenizer ./model ./tokenizer
    mergekit-tokenadapt-eval probe-healing ./out ./out-mean --text code=./src
    mergekit-tokenadapt-eval draft ./large-model ./out
    mergekit-tokenadapt-eval tasks ./model ./out --tasks arc_easy
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


if __name__ == "__main__":
    main()
