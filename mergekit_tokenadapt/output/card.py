"""The model card that mergekit has written, with what it leaves open and a section on the tokenizer."""

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
LICENCE_KEYS = ("license", "license_name", "license_link")
CARRIED = (*LICENCE_KEYS, "language")
"""Keys of an input model's card that hold for the output as well."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CACHED = re.compile(r"models--(.+?)--(.+)")
"""How the hub's cache names the folder of a repository."""


@dataclass(frozen=True)
class CardInput:
    """One input model, for the card."""

    name: str
    """As the recipe has it."""
    folder: Path
    plan: TransferPlan


def extend_model_card(card: Path, target: str, inputs: Sequence[CardInput]) -> None:
    """Fill in base model, licence and languages, and append the section on the tokenizer; where there is a card."""
    if not card.is_file():
        return
    own = [_metadata(each.folder / "README.md") for each in inputs]
    metadata = _metadata(card)
    metadata["base_model"] = list(dict.fromkeys(base_model(each.name, each.folder) for each in inputs))
    metadata |= _common(own)
    metadata_save(card, metadata)
    lines = ["", *_about_licences(inputs, own), *_about_tokenizer(target, inputs)]
    with card.open("a", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + "\n")


def base_model(name: str, folder: Path) -> str:
    """What the hub's key ``base_model`` says of an input model: its hub id as far as that is known, else its name.

    The id is what the recipe says, or the cache's folder is called after, or config.json says that it was loaded
    from (`_name_or_path`).
    """
    plain = name.split("@")[0].split("+")[0]
    cached = next((m for part in folder.parts if (m := _CACHED.fullmatch(part))), None)
    loaded = read_json(folder / "config.json").get("_name_or_path")
    for candidate in (plain, f"{cached[1]}/{cached[2]}" if cached else None, loaded):
        if isinstance(candidate, str) and _HUB_ID.fullmatch(candidate) and not Path(candidate).exists():
            return candidate
    return folder.resolve().name


def _metadata(card: Path) -> dict[str, Any]:
    """The front matter of a card; empty where there is none that can be read."""
    try:
        return metadata_load(card) or {} if card.is_file() else {}
    except Exception as error:  # YAML of any kind, bytes of any kind
        LOG.info("%s: its front matter cannot be read: %s", card, error)
        return {}


def _common(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all input models' cards agree on."""
    shared = {key: own[0][key] for key in CARRIED if own[0].get(key) and all(o.get(key) == own[0][key] for o in own)}
    # The name and the link of a licence say nothing without it.
    return shared if "license" in shared else {k: v for k, v in shared.items() if k not in LICENCE_KEYS}


def _about_licences(inputs: Sequence[CardInput], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what is not known, rather than nothing."""
    if "license" in _common(own):
        return []
    known = [
        f"`{each.folder.name}`: {card.get('license') or 'not stated'}" for each, card in zip(inputs, own, strict=True)
    ]
    return ["### Licence", "", f"Not set here. What the input models' own cards say: {'; '.join(known)}.", ""]


def _about_tokenizer(target: str, inputs: Sequence[CardInput]) -> list[str]:
    lines = ["### Tokenizer", "", f"The tokenizer is that of `{target}`, put in place without training by"]
    own = package_version("mergekit-tokenadapt")
    lines += [f"mergekit-tokenadapt {own}, method `{inputs[0].plan.method}`.", ""]
    lines += ["| input model | " + " | ".join(SHOWN_REASONS) + " |", "|---" * (len(SHOWN_REASONS) + 1) + "|"]
    for each in inputs:
        counts = each.plan.counts()
        lines += [f"| {each.name} | " + " | ".join(f"{counts[reason]:,}" for reason in SHOWN_REASONS) + " |"]
    return lines
