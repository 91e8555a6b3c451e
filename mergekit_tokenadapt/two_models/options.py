"""Options of `align`. This module imports nothing heavy."""

from __future__ import annotations

from pydantic import Field

from mergekit_tokenadapt.options import Options


class AlignOptions(Options):
    """What `align` writes."""

    nearest: bool = Field(default=True, description="also write nearest_tokens.safetensors")
