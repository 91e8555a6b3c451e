"""The recipe block ``tokenizer.adapt``, as a field of mergekit's tokenizer block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergekit.tokenizer.config import TokenizerConfig
from pydantic import (
    BeforeValidator,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.plain_words import describe_errors
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

__all__ = ["AdaptConfig", "AdaptingTokenizerConfig"]


class _Block:
    """A block in a recipe that was turned into a mapping. pydantic would turn models and dataclasses into mappings."""

    def __init__(self, content: AdaptConfig) -> None:
        self.content = content


def _read_block(block: Any) -> Any:
    """Read the block, with our own error messages instead of pydantic's."""
    if isinstance(block, _Block):
        return block.content
    if block is None or isinstance(block, AdaptConfig):
        return block
    if not isinstance(block, Mapping):
        keys = ", ".join(AdaptConfig.model_fields)
        raise TokenAdaptError(f"tokenizer.adapt takes keys ({keys}, and options of the method), not {block!r}")
    try:
        return AdaptConfig.read(block)
    except TokenAdaptError as error:
        raise TokenAdaptError(f"tokenizer.adapt: {error}") from error


class AdaptingTokenizerConfig(TokenizerConfig):  # type: ignore[misc]
    """mergekit's tokenizer block with the additional field `adapt`."""

    adapt: Annotated[AdaptConfig | None, BeforeValidator(_read_block)] = None
    """Our block, or None if the recipe has none."""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, block: Any, as_stock: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(block, Mapping) or block.get("adapt") is None:
            return as_stock(block)
        if block.get("source") in (None, "union"):
            raise TokenAdaptError("tokenizer.adapt needs tokenizer.source: a tokenizer folder, a hub id, or 'base'")
        if block.get("tokens"):
            raise TokenAdaptError("tokenizer.tokens cannot be used with tokenizer.adapt: use tokenizer.adapt.token_map")
        try:
            checked = as_stock(block)
        except ValidationError as error:
            raise TokenAdaptError(describe_errors(error)) from error
        if checked.pad_to_multiple_of is not None and checked.pad_to_multiple_of < 1:
            raise TokenAdaptError(f"pad_to_multiple_of: takes a number above 0, not {checked.pad_to_multiple_of}")
        return checked

    @model_serializer(mode="wrap")
    def _keep_block(self, as_stock: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Serialise a block without ``adapt`` as stock mergekit does, and ours as an object where Python is the form.

        `mergekit-multi` writes recipes and reads them again. An empty ``adapt:`` that it wrote would look like the
        user's own. And it takes every text in a recipe that is a step's name for that step's output, so that a step
        `hybrid` would spoil ``method: hybrid``. It does not look into our object.
        """
        block: dict[str, Any] = as_stock(self)
        if self.adapt is None:
            block.pop("adapt", None)
        elif info.mode == "python" and "adapt" in block:
            block["adapt"] = _Block(self.adapt)
        return block
