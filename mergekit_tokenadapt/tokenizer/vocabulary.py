"""The vocabulary of a tokenizer: id, spelling, bytes and kind of each token.

All code of this package gets the bytes of a token from here. Tokens are compared by their bytes, because two tokenizers
may spell the same bytes differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.spelling import Definition as Definition
from mergekit_tokenadapt.tokenizer.spelling import byte_alphabet as byte_alphabet
from mergekit_tokenadapt.tokenizer.spelling import components as components
from mergekit_tokenadapt.tokenizer.spelling import speller as speller


class TokenKind(str, Enum):
    """The kind of a token."""

    ORDINARY = "ordinary"
    """Text, or part of a character, that the tokenizer's model (BPE, Unigram, ...) produces."""
    BYTE = "byte"
    """A byte-fallback token of SentencePiece, such as ``<0x0A>``."""
    ADDED = "added"
    """An added token that is not special. The tokenizer finds its text before the model runs."""
    SPECIAL = "special"
    """A special token. It stands for its role (bos, eos, ...), not for the text of its spelling."""


class Token(NamedTuple):
    """One entry of a vocabulary."""

    id: int
    spelling: str
    """The entry as `tokenizer.json` writes it (``Ġthe``)."""
    bytes: bytes
    """The text that the token stands for, as UTF-8 (`` the``). Part of a character is not valid UTF-8."""
    kind: TokenKind

    @property
    def text(self) -> str | None:
        """The text that the token stands for; None if its bytes are not valid UTF-8."""
        try:
            return self.bytes.decode("utf-8")
        except UnicodeDecodeError:
            return None

    @property
    def label(self) -> str:
        """The text for messages. Bytes that are not valid UTF-8 are written as ``\\xe4``, with backslashes doubled.

        Two tokens with different bytes that are not valid UTF-8 therefore have different labels.
        """
        text = self.text
        return self.bytes.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace") if text is None else text

    @property
    def num_characters(self) -> int:
        """Number of characters. An incomplete UTF-8 sequence counts as one."""
        return len(self.bytes.decode("utf-8", errors="replace"))

    @property
    def is_blank(self) -> bool:
        """Whether the token consists of white space only, in the sense of Unicode.

        >>> [Token(0, "", c.encode(), TokenKind.ORDINARY).is_blank for c in ("\\n ", "\\u3000", " a")]
        [True, True, False]
        """
        return not (self.text or self.bytes).strip()

    @property
    def spans_words(self) -> bool:
        """Whether the token is a supertoken, that is, has a space between two other characters.

        >>> [Token(0, "", c, TokenKind.ORDINARY).spans_words for c in (b" of the", b" the", b"    ")]
        [True, False, False]
        """
        return self.kind is TokenKind.ORDINARY and b" " in self.bytes.strip()


@dataclass(frozen=True)
class Vocabulary:
    """All tokens of a tokenizer, by ascending id.

    Ids may have gaps. An id without a token belongs to a padding row. The order of the entries in the definition does
    not matter.
    """

    tokens: tuple[Token, ...]
    roles: Mapping[str, int] = field(default_factory=dict)
    """Role (``bos``, ``eos``, ``unk``, ``pad``, ...) -> token id, without the roles that the tokenizer does not set."""

    @classmethod
    def from_definition(cls, definition: Definition, roles: Mapping[str, str] | None = None) -> Vocabulary:
        """Read the vocabulary of a ``tokenizer.json``.

        Args:
            definition: the parsed file.
            roles: role -> spelling of its token, from ``tokenizer_config.json``.

        Raises:
            TokenAdaptError: the definition has no vocabulary, or an id is not a plausible whole number >= 0.
        """
        model_entries = _model_entries(definition)
        spell_out = speller(definition)

        def entry(token_id: int, spelling: str) -> Token:
            content, is_byte = spell_out(spelling)
            return Token(token_id, spelling, content, TokenKind.BYTE if is_byte else TokenKind.ORDINARY)

        tokens: dict[int, Token] = {}
        # Entries are sorted by id, then spelling. If two spellings have one id, the first is kept.
        for token_id, spelling in model_entries:
            if token_id not in tokens:
                tokens[token_id] = entry(token_id, spelling)
        in_the_model = set(model_entries)
        for added in _added_tokens(definition):
            spelling = added["content"]
            in_model = (added["id"], spelling) in in_the_model
            # An added token that is also an entry of the model has the model's spelling (Gemma's runs of spaces). Any
            # other added token is matched against the text, so its spelling is its text.
            content = spell_out(spelling)[0] if in_model else spelling.encode("utf-8", "surrogatepass")
            kind = TokenKind.SPECIAL if added.get("special") else TokenKind.ADDED
            tokens[added["id"]] = Token(added["id"], spelling, content, kind)
        if not tokens:
            raise TokenAdaptError("the tokenizer's vocabulary is empty")
        if max(tokens) > MOST_GAPS + 2 * len(tokens):
            raise TokenAdaptError(
                f"the tokenizer has {len(tokens):,} tokens, but the highest id is {max(tokens):,}: a corrupt file"
            )
        id_of = {tokens[i].spelling: i for i in sorted(tokens, reverse=True)}
        role_ids = {role: id_of[s] for role, s in sorted((roles or {}).items()) if s in id_of}
        for token_id in role_ids.values():  # transformers treats every token with a role as special
            token = tokens[token_id]
            is_text = (token_id, token.spelling) in in_the_model and _stands_for_text(token)
            tokens[token_id] = entry(token_id, token.spelling) if is_text else token._replace(kind=TokenKind.SPECIAL)
        return cls(tuple(tokens[i] for i in sorted(tokens)), role_ids)

    def __len__(self) -> int:
        """Return the number of tokens. The number of rows is at least `num_ids`, which may be larger."""
        return len(self.tokens)

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)

    @property
    def num_ids(self) -> int:
        """Highest id + 1, the smallest number of rows that a vocabulary matrix can have."""
        return self.tokens[-1].id + 1

    @property
    def num_text_ids(self) -> int:
        """Highest id of an ordinary or byte token + 1. A model with fewer rows cannot read all texts.

        Added tokens may lack rows: some published models have tokenizers with image tokens that they never see.
        """
        produced = (t.id for t in reversed(self.tokens) if t.kind in (TokenKind.ORDINARY, TokenKind.BYTE))
        return next(produced, -1) + 1

    def with_rows(self, num_rows: int) -> Vocabulary:
        """Return the vocabulary without tokens and roles whose ids are not below `num_rows`."""
        roles = {role: token_id for role, token_id in self.roles.items() if token_id < num_rows}
        return Vocabulary(tuple(t for t in self.tokens if t.id < num_rows), roles)

    @cached_property
    def by_id(self) -> Mapping[int, Token]:
        """Token id -> token."""
        return {t.id: t for t in self.tokens}

    @cached_property
    def by_spelling(self) -> Mapping[str, Token]:
        """Spelling -> token. If a spelling occurs twice, the token of the lowest id."""
        return {t.spelling: t for t in reversed(self.tokens)}  # the last entry wins, so ids go downwards

    @cached_property
    def single_bytes(self) -> Mapping[int, int]:
        """Byte value -> id of the token that consists of this byte.

        An ordinary token is preferred to a byte token, because a byte token beside an ordinary one is hardly ever
        trained. Among tokens of one kind, the lowest id is preferred.
        """
        single = [t for t in self.tokens if len(t.bytes) == 1 and t.kind in (TokenKind.ORDINARY, TokenKind.BYTE)]
        # The last entry wins, so the preferred tokens come last.
        return {t.bytes[0]: t.id for t in sorted(single, key=lambda t: (t.kind is TokenKind.ORDINARY, -t.id))}

    @cached_property
    def byte_twins(self) -> frozenset[int]:
        """Ids of tokens that the tokenizer never produces, because it produces another token of the same bytes.

        These are byte-fallback tokens beside an ordinary one (``<0x41>`` beside ``A``), and ordinary tokens beside an
        added one, which is found in the text first (CodeGen's runs of spaces). Their rows were never trained.
        """
        added = {t.bytes for t in self.tokens if t.kind is TokenKind.ADDED}
        others = added | {t.bytes for t in self.tokens if t.kind is TokenKind.ORDINARY}
        hidden_by = {TokenKind.ORDINARY: added, TokenKind.BYTE: others}
        return frozenset(t.id for t in self.tokens if t.bytes in hidden_by.get(t.kind, ()))

    def ids(self, *kinds: TokenKind) -> np.ndarray:
        """Return the ascending ids of the tokens of the given kinds, int64 [tokens]. Without kinds, of all tokens."""
        return np.array([t.id for t in self.tokens if not kinds or t.kind in kinds], dtype=np.int64)

    def find(self, text: str) -> Token | None:
        """Return the token that a user means by `text`: the token with this text, else with this spelling, else None.

        If several tokens have the text, the one of lowest id is returned; byte twins come last, because the tokenizer
        never produces them.
        """
        return self._by_bytes.get(text.encode("utf-8", "surrogateescape")) or self.by_spelling.get(text)

    @cached_property
    def _by_bytes(self) -> Mapping[bytes, Token]:
        """Bytes -> the token that stands for them: byte twins come last, then the lowest id is taken."""
        found: dict[bytes, Token] = {}
        for token in sorted(self.tokens, key=lambda t: (t.id in self.byte_twins, t.id)):
            found.setdefault(token.bytes, token)
        return found


# --- reading the definition ----------------------------------------------------------------------


def _stands_for_text(token: Token) -> bool:
    """Whether a token is one character, or has no letters: such a token stands for text, also if it has a role.

    Some tokenizers have ``!`` as pad or a line end as eos. Tokens that are made for a role are words (``</s>``).
    """
    text = token.bytes.decode("utf-8", errors="replace").strip()
    return bool(token.bytes) and (len(text) <= 1 or not any(character.isalnum() for character in text))


def _model_entries(definition: Definition) -> list[tuple[int, str]]:
    """Return the sorted (id, spelling) pairs of the tokenizer's model, without added tokens.

    Raises:
        TokenAdaptError: there is no vocabulary, or an id is not valid.
    """
    model = definition.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):  # Unigram stores (piece, score) pairs, and the position is the id
        return [(i, piece) for i, (piece, _score) in enumerate(vocabulary)]
    if not isinstance(vocabulary, Mapping):
        raise TokenAdaptError("the tokenizer's definition has no model vocabulary")
    for spelling, token_id in vocabulary.items():
        _check_id(spelling, token_id)
    return sorted((i, spelling) for spelling, i in vocabulary.items())


def _added_tokens(definition: Definition) -> list[Mapping[str, Any]]:
    added = definition.get("added_tokens") or []
    for entry in added:
        _check_id(entry.get("content"), entry.get("id"))
    return sorted(added, key=lambda entry: (entry["id"], entry["content"]))


MAX_TOKEN_ID = 2**24
"""Largest id that is accepted. A matrix with more rows than this, 16.8 million, would exceed any memory, so a higher id
means a corrupt file."""
MOST_GAPS = 2**20
"""A file may have this many ids without a token, plus one for each token. More gaps than that mean a corrupt file."""


def _check_id(spelling: Any, token_id: Any) -> None:
    if not isinstance(spelling, str) or type(token_id) is not int or not 0 <= token_id <= MAX_TOKEN_ID:
        raise TokenAdaptError(f"the tokenizer gives the token {spelling!r} the id {token_id!r}, which is not valid")
