"""Match a base and a target vocabulary: every target row gets a reason, and a source where it is a copy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary


class Reason(IntEnum):
    """Why a target row is made the way it is."""

    COPIED = 0
    """A base token stands for the same bytes."""
    SPECIAL = 1
    """A special token that has a counterpart: named by the user, of the same string, or of the same role."""
    NEW = 2
    """No base token stands for it; a method makes the row."""
    PADDING = 3
    """No token has this id."""


@dataclass(frozen=True)
class VocabularyMap:
    """Where each target row comes from.

    A row can have a source only if it is COPIED or SPECIAL. A SPECIAL row without a source is made
    from the pieces of the text that the user gave for it (`texts`).
    """

    reasons: np.ndarray
    """int8 [target rows]: the `Reason` of each row."""
    sources: np.ndarray
    """int64 [target rows]: id of the base token whose row is copied, or -1."""
    texts: Mapping[int, str]
    """For special tokens that are made from a text: target id to that text."""
    is_identity: bool
    """Whether every target token is the base token with the same id, and the reverse."""

    @property
    def num_rows(self) -> int:
        """Rows of a matrix for the target vocabulary."""
        return len(self.reasons)

    def ids(self, reason: Reason) -> np.ndarray:
        """Return the target rows with this reason, ascending, int64."""
        return np.flatnonzero(self.reasons == reason)

    def counts(self) -> dict[str, int]:
        """Return the number of rows for each reason, by the reason's lower-case name."""
        return {reason.name.lower(): int((self.reasons == reason).sum()) for reason in Reason}


def match(
    base: Vocabulary,
    target: Vocabulary,
    *,
    num_rows: int | None = None,
    base_rows: int | None = None,
    token_map: Mapping[str, str] | None = None,
) -> VocabularyMap:
    """Return the reason and the source of every target row.

    Ordinary, byte and added tokens match by bytes; added tokens match a special token of the same string, too, unless
    it is a tag (``</s>``) whose role another target token has. If several base tokens have these bytes, the order of
    preference is: a token that the base tokenizer produces (for a target token that is produced), the same kind and
    spelling, the same kind, the lowest id. Special tokens match by `token_map`, then by string, then by role. A string
    that is ordinary text in the base comes last.

    Args:
        base: the model's own vocabulary.
        target: the vocabulary that the model gets.
        num_rows: rows of the new matrices; None: the target's highest id + 1.
        base_rows: rows of the old matrices; base tokens with higher ids are not used. None: the base's highest id + 1.
        token_map: see `read_token_map`.

    Raises:
        TokenAdaptError: `num_rows` is too small, or `token_map` names unknown tokens.
    """
    num_rows = target.num_ids if num_rows is None else num_rows
    if num_rows < target.num_ids:
        raise TokenAdaptError(
            f"rows: {num_rows} is too few: the target's highest token id is {target.num_ids - 1}, "
            f"so at least {target.num_ids} are needed"
        )
    base_rows = base.num_ids if base_rows is None else base_rows
    usable = [t for t in base if t.id < base_rows]

    reasons = np.full(num_rows, Reason.PADDING, dtype=np.int8)
    sources = np.full(num_rows, -1, dtype=np.int64)
    find_copy = _copy_finder(base, usable, target)
    find_special = _special_finder(base, usable, target)
    find_marker = _marker_finder(base, usable, target)
    for token in target:
        if token.kind is TokenKind.SPECIAL:
            source, found = find_special(token), Reason.SPECIAL
        elif (source := find_marker(token)) is not None:
            found = Reason.SPECIAL
        else:
            source, found = find_copy(token), Reason.COPIED
        sources[token.id] = -1 if source is None else source
        reasons[token.id] = Reason.NEW if source is None else found

    mapped, texts = read_token_map(token_map or {}, base, target)
    for token_id, source in mapped.items():
        if source >= base_rows:
            raise TokenAdaptError(f"token_map: {base.by_id[source].spelling!r} has no row in the base model")
        reasons[token_id], sources[token_id] = Reason.SPECIAL, source
    for token_id in texts:
        reasons[token_id], sources[token_id] = Reason.SPECIAL, -1

    is_identity = len(usable) == len(target) and all(sources[t.id] == t.id for t in target)
    return VocabularyMap(reasons, sources, texts, is_identity)


def read_token_map(
    token_map: Mapping[str, str], base: Vocabulary, target: Vocabulary
) -> tuple[dict[int, int], dict[int, str]]:
    """Resolve the user's pairs of tokens.

    A pair has one of two forms. In ``OLD: NEW``, OLD is a base token and NEW a special or added target token; NEW gets
    the row of OLD. In ``NEW: text``, NEW is a special or added target token; its row is the mean of the rows of the
    text's pieces.

    Returns:
        Target id to base id, and target id to text.

    Raises:
        TokenAdaptError: a pair is neither.
    """
    control = {t.spelling: t for t in reversed(target.tokens) if t.kind in (TokenKind.SPECIAL, TokenKind.ADDED)}
    mapped: dict[int, int] = {}
    texts: dict[int, str] = {}
    for left, right in token_map.items():
        if right in control and left in base.by_spelling:
            mapped[control[right].id] = base.by_spelling[left].id
        elif left in control and right:
            texts[control[left].id] = right
        else:
            unknown = f"the base has no token {left!r}"
            if left in base.by_spelling:
                unknown = f"the target has no special or added token {right!r}"
            raise TokenAdaptError(
                f"token_map: {left!r}: {right!r} fits neither form: {unknown}. Write OLD: NEW with a token of the base "
                "tokenizer and a special or added token of the target, or NEW: text to make one from a text"
            )
    return mapped, texts


TAG = re.compile(r"</?\w+>")
"""A token that may be markup in a text."""
Finder = Callable[[Token], "int | None"]
"""Returns the id of the base token whose row a target token gets, or None."""


def _copy_finder(base: Vocabulary, usable: list[Token], target: Vocabulary) -> Finder:
    """Return a function that finds the base token of the same bytes.

    If the target has ``<0x0A>`` as its only line end, that token gets the row of the base's line end. The base may have
    a ``<0x0A>`` as well. But where its tokenizer never produces that one, nothing trained its row.
    """
    candidates: dict[bytes, list[Token]] = {}
    for token in usable:
        if token.kind is not TokenKind.SPECIAL:
            candidates.setdefault(token.bytes, []).append(token)

    def find(token: Token) -> int | None:
        same_bytes = candidates.get(token.bytes)
        if not same_bytes:
            return None
        is_twin = token.id in target.byte_twins

        def likeness(t: Token) -> tuple[bool, bool, bool, int]:
            as_produced = (t.id in base.byte_twins) == is_twin
            return as_produced, t.kind is token.kind, t.spelling == token.spelling, -t.id

        return max(same_bytes, key=likeness).id

    return find


def _marker_finder(base: Vocabulary, usable: list[Token], target: Vocabulary) -> Finder:
    """Return a function that finds the special base token of an added token's string, such as ``<|im_start|>``.

    Fine-tuned models often have such markers as added tokens that are not special. But a tag such as ``</s>`` is text
    where the target has another token for its role: Gemma's eos is ``<eos>``.
    """
    special = {t.spelling: t.id for t in reversed(usable) if t.kind is TokenKind.SPECIAL}

    def find(token: Token) -> int | None:
        source = special.get(token.spelling) if token.kind is TokenKind.ADDED else None
        if source is None:
            return None
        is_text = TAG.fullmatch(token.spelling) and has_other_token_for_role(base, target, source, token.id)
        return None if is_text else source

    return find


def has_other_token_for_role(base: Vocabulary, target: Vocabulary, old: int, new: int) -> bool:
    """Return whether a role of the base token `old` belongs to another target token than `new`."""
    return any(target.roles.get(role, new) != new for role, token_id in base.roles.items() if token_id == old)


def _special_finder(base: Vocabulary, usable: list[Token], target: Vocabulary) -> Finder:
    """Return a function that finds the base token of the same string, or else of the same role.

    If the string is an ordinary token in the base, the role comes first. Gemma's `<s>`, for instance, is the HTML tag
    and does not start a sequence.
    """
    by_string: dict[str, int] = {}
    # Special and added tokens first: an ordinary token of the same string is used only where there is none of them.
    for token in sorted(usable, key=lambda t: t.kind not in (TokenKind.SPECIAL, TokenKind.ADDED)):
        by_string.setdefault(token.spelling, token.id)
    usable_ids = {t.id for t in usable}
    special = {t.id for t in usable if t.kind is TokenKind.SPECIAL}
    by_role: dict[int, int] = {}
    # One target token may have several roles. `eos` comes first, because it is the role that the model predicts.
    for role in sorted(target.roles, key=lambda role: (role != "eos", role)):
        source = base.roles.get(role)
        # A pad token that stands for text (`!`) has the row of this text. A copy would be predicted in its place.
        if source in (usable_ids if role in ("bos", "eos") else special):
            by_role.setdefault(target.roles[role], source)

    def find(token: Token) -> int | None:
        same_string, same_role = by_string.get(token.spelling), by_role.get(token.id)
        if same_string is None or (same_role is not None and same_string not in special):
            return same_role
        return same_string

    return find
