"""Check that a model still loads and runs with the translated config, and suggest a `token_map` if it does not."""

from __future__ import annotations

import copy
import json
import logging
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

LOG = logging.getLogger(__name__)


def config_content(config: Any) -> dict[str, Any]:
    """Return the content of the config.json that transformers would write."""
    content: dict[str, Any] = json.loads(config.to_json_string())
    return content


def check_needed(config: Any, translation: Translation, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Check that the model's class accepts the translated config, although some token ids were lost.

    Args:
        config: the base model's transformers config.
        translation: the translated content of that config.
        target: the target tokenizer, which lacks the lost tokens.
        mapping: the base row of each target row.

    Raises:
        TokenAdaptError: the config does not load, or the model does not run. The message suggests a `token_map`.
    """
    reason = _refusal(config, translation.config)
    if reason is None:
        _check_runs(config, translation, target, mapping)
        return
    before = config_content(config)
    # Some configs do not load even untranslated: transformers writes infinity as an object that it cannot read.
    if _refusal(config, before) is not None:
        return
    # The class reports only the first missing id. Each lost key is tried on its own, so that the message names all.
    needed = [lost for lost in translation.lost if lost.is_whole and _refusal(config, _without(before, lost))]
    if not needed:
        raise TokenAdaptError(f"the base model's config does not load with the target tokenizer's ids: {reason}")
    raise TokenAdaptError(
        f"the model does not load without {_keys(needed)}, and the target tokenizer has no such token"
        f"{'s' if len(needed) > 1 else ''}: {_remedy(needed, target, mapping)}"
    )


def _check_runs(config: Any, translation: Translation, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Check on the meta device that the model still runs with the translated config.

    A warning says so if it runs on one text, but not on several.

    Many models fail on the meta device in any case, because they read values of tensors. The check therefore fails only
    if the error differs from the error with the base model's own config.

    Raises:
        TokenAdaptError: the model does not run.
    """
    lost = [each for each in translation.lost if each.is_whole]
    if not lost:
        return
    if error := _new_error(config, translation, 1):
        raise TokenAdaptError(
            f"without {_keys(lost)}, which the target tokenizer does not have, the model does not run ({error}): "
            f"{_by_role(lost)}{_remedy(lost, target, mapping)}"
        )
    pad = [each for each in lost if role_of(each.path[-1]) == "pad"]
    if pad and (error := _new_error(config, translation, 2)):
        # Sequence classifiers of decoders find the last token of each text by the pad id.
        LOG.warning(
            "%s",
            f"without {_keys(pad)}, which the target tokenizer does not have, the model reads only one text at a time "
            f"({error}): {_by_role(pad)}{_remedy(pad, target, mapping)}",
        )


def _new_error(config: Any, translation: Translation, num_texts: int) -> str | None:
    """Return the error of the translated config that the base model's own does not have; None if there is none."""
    error = forward_error(type(config).from_dict(copy.deepcopy(translation.config)), num_texts)
    return error if error is not None and error != forward_error(config, num_texts) else None


def _by_role(lost: Sequence[Lost]) -> str:
    """Return advice for lost roles: the target may name a token for each in its tokenizer_config.json."""
    roles = sorted({f'"{role}_token"' for each in lost if (role := role_of(each.path[-1]))})
    return f"name one in its tokenizer_config.json ({', '.join(roles)}), or " if roles else ""


def _keys(lost: Sequence[Lost]) -> str:
    return ", ".join(f"{each.key} {', '.join(map(repr, each.spellings)) or each.ids[0]}" for each in lost)


def check_offsets(config: Mapping[str, Any], mapping: VocabularyMap) -> None:
    """Check that the target has no other tokens at ids that the model looks up outside its vocabulary tables.

    Gemma 3n, for instance, treats all ids from `vocab_offset` on as tokens of images or sound.

    Args:
        config: the content of config.json.
        mapping: the base row of each target row.

    Raises:
        TokenAdaptError: the target has other tokens at such ids.
    """
    for path, section in nested_sections(config):
        for key in sorted(key for key, value in section.items() if _OFFSET.fullmatch(key) and type(value) is int):
            rows = np.arange(section[key], mapping.num_rows)
            others = (mapping.sources[rows] != rows) & (mapping.reasons[rows] != Reason.PADDING)
            if others.any():
                raise TokenAdaptError(
                    f"{'.'.join((*path, key))} is {section[key]}: the model treats all ids from there on as tokens of "
                    f"images or sound, and the target tokenizer has {int(others.sum())} other tokens there"
                )


_OFFSET = re.compile(r"(.*_)?(vocab|token)_offset")
"""Matches config keys such as ``vocab_offset``. Ids from their value on are looked up in other tables."""


def suggest_tokens(spellings: Sequence[str], target: TokenizerFiles, mapping: VocabularyMap) -> dict[str, str] | None:
    """Suggest a target token for each of some base tokens.

    Candidates are special tokens without a counterpart in the base, without a role, and not used in the target's chat
    templates. A candidate of similar spelling is preferred, then a spare token (``<unused0>``), then the most similar
    candidate.

    Args:
        spellings: spellings of base tokens.
        target: the target tokenizer.
        mapping: the base row of each target row.

    Returns:
        Base spelling -> target spelling, each target token once; None if there are too few candidates.
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
"""Largest number of candidates that are compared. Some tokenizers have very many spare tokens, all alike."""


def _unused_tokens(target: TokenizerFiles, mapping: VocabularyMap) -> Iterator[Token]:
    """Yield the special tokens that have no counterpart in the base and no role, and are not used in chat templates."""
    used, roles = "".join(target.chat_templates.values()), set(target.vocabulary.roles.values())
    for token in target.vocabulary:
        is_free = token.kind is TokenKind.SPECIAL and mapping.sources[token.id] < 0
        if is_free and token.id not in roles and token.spelling not in used:
            yield token


def as_token_map(pairs: Mapping[str, str]) -> str:
    """Write pairs of spellings as a recipe key and as command-line flags, ready to paste.

    >>> as_token_map({"<image>": "<|image_pad|>"})
    'token_map: {"<image>": "<|image_pad|>"} (--token-map \\'<image>=<|image_pad|>\\')'
    """
    flags = " ".join(f"--token-map '{old}={new}'" for old, new in pairs.items())
    return f"token_map: {json.dumps(dict(pairs), ensure_ascii=False)} ({flags})"


_SPARE = re.compile(r"unused|reserved|extra|spare|placeholder|dummy", re.IGNORECASE)
"""Matches the spellings of spare tokens, which a vocabulary keeps for later use."""
MUCH_ALIKE = 0.6
"""Smallest `difflib` ratio (between 0 and 1) at which two spellings count as similar."""


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
    """Return the reason why the config's class refuses some content; None if it accepts it."""
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
