"""Read what `plan` and `explain` need of BASE: its tokenizer and sizes, but no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

if TYPE_CHECKING:  # these import torch, which --help does not need
    from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
    from mergekit_tokenadapt.transfer.transfer import Transfer

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number of each dtype."""


@dataclass(frozen=True)
class BaseSizes:
    """Sizes of the vocabulary matrices according to config.json."""

    rows: int
    hidden_size: int | None
    matrices: int
    """1 if input and output matrix are tied, else 2."""
    bytes_per_number: int


WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")
"""Config keys that state the width of the vocabulary matrices."""


def sizes_of(base: TokenizerFiles) -> BaseSizes:
    """Read the sizes from config.json. Without one, the number of rows is the tokenizer's highest id + 1."""
    from mergekit_tokenadapt.tokenizer.files import read_json

    config = read_json(base.folder / "config.json")
    text: dict[str, Any] = config | (config.get("text_config") or {})
    return BaseSizes(
        rows=base.model_rows or base.vocabulary.num_ids,
        hidden_size=next((text[key] for key in WIDTH_KEYS if text.get(key)), None),
        matrices=1 if _is_tied(text) else 2,
        bytes_per_number=BYTES.get(str(text.get("dtype") or text.get("torch_dtype")), 4),
    )


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Return what config.json says about the two matrices, or where it is silent, what transformers does."""
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    return bool(kind in CONFIG_MAPPING and getattr(CONFIG_MAPPING[kind](), "tie_word_embeddings", False))


def make_transfer(
    base_name: str,
    target_name: str,
    block: dict[str, Any],
    *,
    quiet: bool,
    pad_to_multiple_of: int | None = None,
) -> Transfer:
    """Return the transfer from BASE to TARGET for an ``adapt`` block."""
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer
    from mergekit_tokenadapt.transfer.transfer import Transfer
    from mergekit_tokenadapt.vocabulary_extension.target import target_of

    adapt = AdaptConfig.read(block)
    base = load_tokenizer(base_name)
    target = target_of(adapt, load_tokenizer(target_name), base, base.folder).tokenizer
    base_rows = sizes_of(base).rows
    return Transfer.of(
        adapt, base=base, target=target, base_rows=base_rows, pad_to_multiple_of=pad_to_multiple_of, quiet=quiet
    )
