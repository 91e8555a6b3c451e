"""Complete the model card that mergekit writes: base models, licence, languages, and a section on the tokenizer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, metadata_save

from mergekit_tokenadapt.output.manifest import package_version
from mergekit_tokenadapt.tokenizer.files import read_json
from mergekit_tokenadapt.transfer.plan import TransferPlan

LOG = logging.getLogger(__name__)

SHOWN_REASONS = ("copied", "special", "new", "padding")
"""Reasons of rows that the table in the card counts."""
LICENCE_KEYS = ("license", "license_name", "license_link")
CARRIED = (*LICENCE_KEYS, "language")
"""Keys of an input model's card that the output keeps."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CACHED = re.compile(r"models--(.+?)--(.+)")
"""Matches the name that the hub's cache gives to the folder of a repository."""


@dataclass(frozen=True)
class CardInput:
    """One input model of the recipe."""

    name: str
    """The name in the recipe."""
    folder: Path
    """The folder of the model."""
    plan: TransferPlan
    """How its new rows were made."""


def extend_model_card(card: Path, target: str, inputs: Sequence[CardInput]) -> None:
    """Add base models, licence and languages to a card's metadata, and append a section on the tokenizer.

    Args:
        card: the README.md of the output. Nothing happens if it does not exist, as with mergekit's
            ``--no-write-model-card``.
        target: name of the target tokenizer.
        inputs: the input models.
    """
    if not card.is_file():
        return
    own = [_metadata(each.folder / "README.md") for each in inputs]
    metadata = _metadata(card)
    metadata["base_model"] = list(dict.fromkeys(base_model(each.name, each.folder) for each in inputs))
    metadata |= _shared_metadata(own)
    metadata_save(card, metadata)
    lines = ["", *_about_licences(inputs, own), *_about_tokenizer(target, inputs)]
    with card.open("a", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + "\n")


def base_model(name: str, folder: Path) -> str:
    """Return an input model's value for the card's key ``base_model``: its hub id if known, else its folder's name.

    The hub id may come from the recipe, from the folder's name in the hub's cache, or from ``_name_or_path`` in
    config.json.
    """
    plain = name.split("@")[0].split("+")[0]
    cached = next((m for part in folder.parts if (m := _CACHED.fullmatch(part))), None)
    loaded = read_json(folder / "config.json").get("_name_or_path")
    for candidate in (plain, f"{cached[1]}/{cached[2]}" if cached else None, loaded):
        if isinstance(candidate, str) and _HUB_ID.fullmatch(candidate) and not Path(candidate).exists():
            return candidate
    return folder.resolve().name


def _metadata(card: Path) -> dict[str, Any]:
    """Read the metadata (YAML front matter) of a card; return an empty dict if there is none or it is not valid."""
    try:
        return metadata_load(card) or {} if card.is_file() else {}
    except Exception as error:  # cards come from strangers: the parser may fail in any way
        LOG.info("%s: its front matter cannot be read: %s", card, error)
        return {}


def _shared_metadata(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the carried keys that have the same value in the cards of all input models."""
    shared = {key: own[0][key] for key in CARRIED if own[0].get(key) and all(o.get(key) == own[0][key] for o in own)}
    # `license_name` and `license_link` mean nothing without `license`.
    return shared if "license" in shared else {k: v for k, v in shared.items() if k not in LICENCE_KEYS}


def _about_licences(inputs: Sequence[CardInput], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a section that quotes the licences of the input models, if these have no licence in common."""
    if "license" in _shared_metadata(own):
        return []
    known = [
        f"`{each.folder.name}`: {card.get('license') or 'not stated'}" for each, card in zip(inputs, own, strict=True)
    ]
    return ["### Licence", "", f"Not set here. The cards of the input models state: {'; '.join(known)}.", ""]


def _about_tokenizer(target: str, inputs: Sequence[CardInput]) -> list[str]:
    lines = ["### Tokenizer", "", f"This model uses the tokenizer of `{target}`. The swap was done without training by"]
    own = package_version("mergekit-tokenadapt")
    lines += [f"mergekit-tokenadapt {own}, method `{inputs[0].plan.method}`.", ""]
    lines += ["| input model | " + " | ".join(SHOWN_REASONS) + " |", "|---" * (len(SHOWN_REASONS) + 1) + "|"]
    for each in inputs:
        counts = each.plan.counts()
        lines += [f"| {each.name} | " + " | ".join(f"{counts[reason]:,}" for reason in SHOWN_REASONS) + " |"]
    return lines
