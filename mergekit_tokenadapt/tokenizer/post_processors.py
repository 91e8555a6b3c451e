"""Change the tokens that a ``tokenizer.json``'s post-processor puts before each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.spelling import components
from mergekit_tokenadapt.tokenizer.vocabulary import Token

TEMPLATE = "TemplateProcessing"
PLAIN_TEMPLATE: Mapping[str, Any] = {
    "type": TEMPLATE,
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
"""A post-processor that adds no token."""
WITHOUT_TOKENS = ("ByteLevel",)
"""Types of post-processors that add no token."""


def with_leading_tokens(post_processor: Mapping[str, Any] | None, tokens: Sequence[Token]) -> Mapping[str, Any] | None:
    """Return a post-processor that puts `tokens` before each text, in place of those that the given one puts there.

    What it adds after a text stays.

    Args:
        post_processor: the part ``post_processor`` of a tokenizer.json.
        tokens: the tokens; none for a text without a token before it.

    Raises:
        TokenAdaptError: the type of the post-processor has a fixed token before each text.
    """
    parts = [part for part in components(post_processor) if part["type"] != "Sequence"]
    for part in parts:
        if part["type"] not in (TEMPLATE, *WITHOUT_TOKENS):
            raise TokenAdaptError(f"the tokens before a text cannot be changed in a post-processor {part['type']}")
    if not any(part["type"] == TEMPLATE for part in parts):
        if not tokens:
            return post_processor
        parts = [*parts, PLAIN_TEMPLATE]
    changed = [_with_leading(part, tokens) if part["type"] == TEMPLATE else part for part in parts]
    return changed[0] if len(changed) == 1 else {"type": "Sequence", "processors": changed}


def _with_leading(template: Mapping[str, Any], tokens: Sequence[Token]) -> dict[str, Any]:
    put = [{"SpecialToken": {"id": token.spelling, "type_id": 0}} for token in tokens]
    rest = {key: list(dropwhile(lambda piece: "SpecialToken" in piece, template[key])) for key in ("single", "pair")}
    known = {t.spelling: {"id": t.spelling, "ids": [t.id], "tokens": [t.spelling]} for t in tokens}
    return {
        **template,
        **{key: put + pieces for key, pieces in rest.items()},
        "special_tokens": {**template["special_tokens"], **known},
    }
