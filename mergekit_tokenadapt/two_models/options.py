"""Options of `align`. This module imports nothing heavy."""

from __future__ import annotations

from pydantic import Field

from mergekit_tokenadapt.options import Options


class AlignOptions(Options):
    """Options of `align`."""

    nearest: bool = Field(
        default=True, description="also write the nearest tokens of both vocabularies (nearest_tokens.safetensors)"
    )
