"""The group `mergekit-tokenadapt supertokens`."""

from __future__ import annotations

import click

from mergekit_tokenadapt.cli.lazy import LazyGroup


@click.group(
    "supertokens",
    cls=LazyGroup,
    commands_in={
        "train": "mergekit_tokenadapt.cli.supertokens_train:train_command",
        "extend": "mergekit_tokenadapt.cli.supertokens_extend:extend_command",
        "report": "mergekit_tokenadapt.cli.supertokens_report:report_command",
    },
)
def supertokens_group() -> None:
    """Learn vocabularies whose tokens may span words.

    \b
    mergekit-tokenadapt supertokens train --text ./texts --vocab-size 64000 ./tokenizer
    mergekit-tokenadapt supertokens extend ./model --text ./texts --add 8000 ./tokenizer
    mergekit-tokenadapt supertokens report ./tokenizer --against ./model

    The result is an ordinary tokenizer folder. Use it as TARGET of `mergekit-tokenadapt transplant`.
    """
