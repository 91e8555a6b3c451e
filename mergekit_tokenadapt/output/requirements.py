"""Ids that a model cannot do without: its config must still load after the translation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.forward_check import forward_error
from mergekit_tokenadapt.output.configs import nested_sections
from mergekit_tokenadapt.output.id_keys import role_of
from mergekit_tokenadapt.output.translation import Lost, Translation
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap


def config_content(config: Any) -> dict[str, Any]:
    """What transformers would write into config.json."""
    content: dict[str, Any] = json.loads(config.to_json_string())
    return content


def check_needed(config: Any, translation: Translation, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Refuse a translated config that its class does not take without the ids that were lost.

    Args:
        config: the base model's, an object of transformers.
        translation: of its content.
        target: the tokenizer that lacks the tokens.
        mapping: which of its tokens have a counterpart in the base.

    Raises:
        TokenAdaptError: it does not load; the message says which token_map mends it.
    """
    reason = _refusal(config, translation.config)
    if reason is None:
        _check_runs(config, translation, target, mapping)
        return
    before = config_content(config)
    if (
        _refusal(config, before) is not None
    ):  # transformers writes an infinite number as an object that it does not take
        return
    # The class stops at the first: those that it refuses by themselves are all named.
    needed = [lost for lost in translation.lost if lost.is_whole and _refusal(config, _without(before, lost))]
    if not needed:
        raise TokenAdaptError(f"the base model's config cannot be brought to the target tokenizer: {reason}")
    raise TokenAdaptError(
        f"the model does not load without {_keys(needed)}, and the target tokenizer has no such token"
        f"{'s' if len(needed) > 1 else ''}: {_remedy(needed, target, mapping)}"
    )


def _check_runs(config: Any, translation: Translation, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Refuse a config with which the model loads, but no longer runs.

    On the meta device many models stop where they look at values, with their own config as well: what counts is
    that they stop for another reason.

    Raises:
        TokenAdaptError: they do.
    """
    lost = [each for each in translation.lost if each.is_whole]
    if not lost:
        return
    error = forward_error(type(config).from_dict(copy.deepcopy(translation.config)))
    if error is not None and error != forward_error(config):
        raise TokenAdaptError(
            f"without {_keys(lost)}, which the target tokenizer does not have, the model does not run ({error}): "
            f"{_by_role(lost)}{_remedy(lost, target, mapping)}"
        )


def _by_role(lost: Sequence[Lost]) -> str:
    """What mends a role: the target's own word for it."""
    roles = sorted({f'"{role}_token"' for each in lost if (role := role_of(each.path[-1]))})
    return f"name one in its tokenizer_config.json ({', '.join(roles)}), or " if roles else ""


def _keys(lost: Sequence[Lost]) -> str:
    return ", ".join(f"{each.key} {', '.join(map(repr, each.spellings)) or each.ids[0]}" for each in lost)


def check_offsets(config: Mapping[str, Any], mapping: VocabularyMap) -> None:
    """Refuse other tokens at ids that a model looks up outside its vocabulary tables.

    Gemma 3n takes ids from `vocab_offset` on for those of its vision and audio tokens.

    Args:
        config: the content of config.json.
        mapping: where the target's rows come from.

    Raises:
        TokenAdaptError: the target has tokens there that the base has elsewhere, or not at all.
    """
    for path, section in nested_sections(config):
        for key in sorted(key for key, value in section.items() if _OFFSET.fullmatch(key) and type(value) is int):
            rows = np.arange(section[key], mapping.num_rows)
            others = (mapping.sources[rows] != rows) & (mapping.reasons[rows] != Reason.PADDING)
            if others.any():
                raise TokenAdaptError(
                    f"{'.'.join((*path, key))} is {section[key]}: the model takes all ids from there on for tokens of "
                    f"images or sound, and the target tokenizer has {int(others.sum())} other tokens there"
                )


_OFFSET = re.compile(r"(.*_)?(vocab|token)_offset")


def suggest_tokens(spellings: Sequence[str], target: TokenizerFiles, mapping: VocabularyMap) -> dict[str, str] | None:
    """A target token to stand for each of some base tokens, none of them twice; None where these are too few.

    Special tokens come into question that have no counterpart in the base, no role, and no part in the target's
    chat templates: of these one whose spelling is much alike, else one that is there for such use
    (``<unused0>``), else the likest.
    """
    free = list(islice(_unused_tokens(target, mapping), MOST_CANDIDATES))
    chosen: dict[str, str] = {}
    for spelling in dict.fromkeys(spellings):
        if not free:
            return None
        best = max(free, key=lambda t: _likeness(spelling, t))
        free.remove(best)
        chosen[spelling] = best.spelling
    return chosen


MOST_CANDIDATES = 1000
"""Unused special tokens that are compared: some tokenizers have very many, all alike."""


def _unused_tokens(target: TokenizerFiles, mapping: VocabularyMap) -> Iterator[Token]:
    """Special tokens without a counterpart in the base, a role, or a part in the target's chat templates."""
    used, roles = "".join(target.chat_templates.values()), set(target.vocabulary.roles.values())
    for token in target.vocabulary:
        is_free = token.kind is TokenKind.SPECIAL and mapping.sources[token.id] < 0
        if is_free and token.id not in roles and token.spelling not in used:
            yield token


def as_token_map(pairs: Mapping[str, str]) -> str:
    """The pairs as they are written in a recipe and as flags, ready to paste.

    >>> as_token_map({"<image>": "<|image_pad|>"})
    'token_map: {"<image>": "<|image_pad|>"} (--token-map \\'<image>=<|image_pad|>\\')'
    """
    flags = " ".join(f"--token-map '{old}={new}'" for old, new in pairs.items())
    return f"token_map: {json.dumps(dict(pairs), ensure_ascii=False)} ({flags})"


_SPARE = re.compile(r"unused|reserved|extra|spare|placeholder|dummy", re.IGNORECASE)
MUCH_ALIKE = 0.6
"""Share of their characters that two spellings have in common from which on they may mean the same."""


def _likeness(spelling: str, token: Token) -> tuple[bool, bool, float, int]:
    ratio = SequenceMatcher(None, spelling.lower(), token.spelling.lower()).ratio()
    return ratio >= MUCH_ALIKE, _SPARE.search(token.spelling) is not None, ratio, -token.id


def _remedy(needed: Sequence[Lost], target: TokenizerFiles, mapping: VocabularyMap) -> str:
    spellings = [spelling for lost in needed for spelling in lost.spellings]
    if not spellings:
        return "the base tokenizer has none of these ids either; correct its config.json"
    pairs = suggest_tokens(spellings, target, mapping)
    if pairs is None:
        return "add tokens of the same spelling to its tokenizer.json: it has too few unused special tokens for them"
    return f"let other special tokens stand for them, as in {as_token_map(pairs)}"


def _refusal(config: Any, content: Mapping[str, Any]) -> str | None:
    """Why the config's class does not take some content; None where it does."""
    try:
        type(config).from_dict(copy.deepcopy(dict(content)))
    except Exception as error:  # the class's own checks run here, and may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines)[:200] or first_line(error)
    return None


def _without(content: Mapping[str, Any], lost: Lost) -> dict[str, Any]:
    result = copy.deepcopy(dict(content))
    section = result
    for key in lost.path[:-1]:
        section = section[key]
    section[lost.path[-1]] = None
    return result
