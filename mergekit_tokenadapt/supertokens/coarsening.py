"""Make the pre-tokenizer of an existing definition coarser, so that tokens may span words.

When an existing vocabulary is extended, a boundary may be removed only where none of its merges could cross it. Its
merges then give the same tokens as before, and the new merges, which come later, only join these tokens.
`Coarsening.of` checks every merge (see `crossing_merges`) and leaves out what a merge could cross.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.crossing_merges import narrowed
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.seams import Seam, coarse_pattern, seams
from mergekit_tokenadapt.supertokens.word_patterns import GPT2, byte_level_split
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, components


@dataclass(frozen=True)
class Coarsening:
    """A tokenizer definition whose pre-tokenizer lets tokens span words."""

    definition: Mapping[str, Any]
    seams: tuple[Seam, ...]
    """Boundaries that tokens can be learned across. It is empty where the pre-tokenizer did not have to change."""
    notes: tuple[str, ...] = ()
    """Boundaries that had to be left out and why, one sentence each."""

    @classmethod
    def of(cls, definition: Definition, rules: Rules) -> Coarsening:
        """Make a tokenizer's pre-tokenizer coarser without changing the tokens that its own merges give.

        Raises:
            TokenAdaptError: the tokenizer cannot learn tokens across words.
        """
        check_model(definition)
        if not _ever_splits(definition):
            return cls(definition, ())
        allowed, notes = narrowed(seams(rules), definition)
        if not any((s.left, s.space, s.right) == ("letter", True, "letter") for s in allowed):
            raise TokenAdaptError(
                "the base's merges reach across the boundaries between words, so that tokens across words would "
                f"change how old text is segmented: {'; '.join(notes)}"
            )
        return cls(coarsened(definition, allowed), tuple(allowed), tuple(notes))


def can_be_coarser(definition: Definition) -> bool:
    """Return whether this tokenizer's pre-tokenizer suits learning words, and then tokens across words."""
    try:
        check_model(definition)
        coarsened(definition, seams(Rules()))
    except TokenAdaptError:
        return False
    return True


def check_model(definition: Definition) -> None:
    """Check that merges can be added to a tokenizer.

    Raises:
        TokenAdaptError: the tokenizer is not BPE, its spellings depend on word boundaries, or it drops merges at
            random.
    """
    model = definition["model"]
    if model.get("type") != "BPE":
        raise TokenAdaptError(
            f"the base is a {model.get('type')} tokenizer: it has no merges to continue, and new entries would change "
            "how old text is segmented; only BPE can be extended (supertokens train makes a new tokenizer)"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise TokenAdaptError(
            "the base spells a word's start or end into its tokens "
            "(continuing_subword_prefix or end_of_word_suffix): no token can reach across words"
        )
    if model.get("dropout"):
        raise TokenAdaptError("the base drops merges at random (dropout): its tokens are not determined by its merges")


def _ever_splits(definition: Definition) -> bool:
    """Return whether the pre-tokenizer ever splits text. SentencePiece-like tokenizers leave a line in one piece."""
    parts = [p for p in components(definition.get("pre_tokenizer")) if p["type"] != "Sequence"]
    normalizer = list(components(definition.get("normalizer")))
    no_spaces = any(p["type"] == "Replace" and p["pattern"].get("String") == " " for p in normalizer)
    for part in parts:
        # Gemma splits at spaces after its normalizer has replaced all spaces: this never splits.
        at_spaces = part["type"] == "Split" and part["pattern"].get("String") == " " and no_spaces
        whole = (part["type"] == "Metaspace" and part.get("split") is False) or (
            part["type"] == "ByteLevel" and not part.get("use_regex", True) and not part.get("add_prefix_space")
        )
        if not (at_spaces or whole):
            return True
    return False


def coarsened(definition: Definition, allowed: Sequence[Seam]) -> dict[str, Any]:
    """Return a copy of a definition in which the last splitting pattern is coarse.

    Raises:
        TokenAdaptError: the pre-tokenizer has another form than those that can be made coarser.
    """
    result = copy.copy(dict(definition))
    parts = _flat(definition.get("pre_tokenizer"))
    last = len(parts) - 1
    if last < 0 or parts[last]["type"] != "ByteLevel" or parts[last].get("add_prefix_space"):
        raise _unknown(parts)
    if parts[last].get("use_regex", True):
        split = byte_level_split(coarse_pattern(GPT2, allowed))["pretokenizers"][0]
        parts[last:] = [split, {**parts[last], "use_regex": False}]
    else:
        split = parts[last - 1] if last else {}
        isolates = (split.get("behavior"), split.get("invert")) in (("Isolated", False), ("Removed", True))
        if split.get("type") != "Split" or "Regex" not in split["pattern"] or not isolates:
            raise _unknown(parts)
        parts[last - 1] = {**split, "pattern": {"Regex": coarse_pattern(split["pattern"]["Regex"], allowed)}}
    result["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    return result


def _flat(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer without the sequences that hold them."""
    return [dict(p) for p in components(part) if p["type"] != "Sequence"]


def _unknown(parts: Sequence[Mapping[str, Any]]) -> TokenAdaptError:
    shown = ", ".join(str(p["type"]) for p in parts) or "none"
    return TokenAdaptError(
        f"the base's pre-tokenizer ({shown}) is none that can be made coarser: it has to end in ByteLevel without "
        "add_prefix_space, and either ByteLevel uses its own pattern or a Split with a regular expression precedes it"
    )
