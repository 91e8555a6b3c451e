"""The options of ``tokenizer.adapt.extend``: which tokens of another tokenizer the base's tokenizer gets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from mergekit_tokenadapt.options import Options


class ExtendOptions(Options):
    """Which tokens of ``tokenizer.source`` are appended to the base model's tokenizer."""

    tokens: PositiveInt | Literal["all"] = Field(
        default="all",
        description="largest number of new tokens, including those that are only needed to merge others; or all",
    )
    text: str | None = Field(
        default=None,
        description="text whose most frequent tokens are appended: a file, a folder or jsonl. Without a text, tokens "
        "are appended in the order of their ids",
    )
