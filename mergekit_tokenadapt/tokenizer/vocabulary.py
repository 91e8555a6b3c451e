"""What a token is: its id, spelling, bytes and kind. Nothing else in the project decodes tokens."""

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
    """What a row of the vocabulary stands for."""

    ORDINARY = "ordinary"
    """Text, or part of a character, that the tokenizer's model produces."""
    BYTE = "byte"
    """A SentencePiece byte-fallback token such as ``<0x0A>``."""
    ADDED = "added"
    """Text matched before the model runs; not special."""
    SPECIAL = "special"
    """A control token. It stands for a role, not for its spelling."""


class Token(NamedTuple):
    """One entry of a vocabulary."""

    id: int
    spelling: str
    """The entry as the tokenizer's definition writes it."""
    bytes: bytes
    """The text it stands for, UTF-8. May be part of a character, and then is not valid UTF-8."""
    kind: TokenKind

    @property
    def text(self) -> str | None:
        """The token's true text, or None where its bytes are not valid UTF-8."""
        try:
            return self.bytes.decode("utf-8")
        except UnicodeDecodeError:
            return None

    @property
    def label(self) -> str:
        """The text; where the bytes are not valid UTF-8, they are written as ``\\xe4``, and a backslash is doubled.

        No two different tokens of invalid UTF-8 have the same label.
        """
        text = self.text
        return self.bytes.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace") if text is None else text

    @property
    def is_blank(self) -> bool:
        """Whether it is nothing but white space, of any script.

        >>> [Token(0, "", c.encode(), TokenKind.ORDINARY).is_blank for c in ("\\n ", "\\u3000", " a")]
        [True, True, False]
        """
        return not (self.text or self.bytes).strip()

    @property
    def spans_words(self) -> bool:
        """Whether it is a supertoken: something, a space, something.

        >>> [Token(0, "", c, TokenKind.ORDINARY).spans_words for c in (b" of the", b" the", b"    ")]
        [True, False, False]
        """
        return self.kind is TokenKind.ORDINARY and b" " in self.bytes.strip()


@dataclass(frozen=True)
class Vocabulary:
    """All tokens of a tokenizer, in the order of their ids.

    Ids may have gaps: an id without a token is a padding row. Nothing here depends on the order
    in which the definition lists its entries.
    """

    tokens: tuple[Token, ...]
    roles: Mapping[str, int] = field(default_factory=dict)
    """Role (``bos``, ``eos``, ``unk``, ``pad``, ...) to token id. A missing role is not there."""

    @classmethod
    def from_definition(cls, definition: Definition, roles: Mapping[str, str] | None = None) -> Vocabulary:
        """Read the vocabulary of a ``tokenizer.json``.

        Args:
            definition: the parsed file.
            roles: role to the spelling of its token, as ``tokenizer_config.json`` says.

        Raises:
            TokenAdaptError: the definition has no vocabulary, or an id is not a whole number >= 0.
        """
        model_entries = _model_entries(definition)
        spell_out = speller(definition)
        tokens: dict[int, Token] = {}
        # Sorted by id, then spelling: of two spellings with one id, the first one is kept.
        for token_id, spelling in model_entries:
            if token_id not in tokens:
                content, is_byte = spell_out(spelling)
                kind = TokenKind.BYTE if is_byte else TokenKind.ORDINARY
                tokens[token_id] = Token(token_id, spelling, content, kind)
        in_the_model = set(model_entries)
        for added in _added_tokens(definition):
            spelling = added["content"]
            in_model = (added["id"], spelling) in in_the_model
            # An added token that is also an entry of the model is spelt as the model spells
            # (Gemma's runs of spaces); any other is matched against the text as it stands.
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
        for token_id in role_ids.values():  # a role makes a token special, as transformers has it
            tokens[token_id] = tokens[token_id]._replace(kind=TokenKind.SPECIAL)
        return cls(tuple(tokens[i] for i in sorted(tokens)), role_ids)

    def __len__(self) -> int:
        """The number of tokens. Not the number of rows: see `num_ids`."""
        return len(self.tokens)

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)

    @property
    def num_ids(self) -> int:
        """Highest id + 1: the fewest rows that a matrix for this vocabulary can have."""
        return self.tokens[-1].id + 1

    @property
    def num_text_ids(self) -> int:
        """Highest id of a token that the tokenizer's model produces + 1: no model can do with fewer rows.

        An added token may lack a row: published models have tokenizers with image tokens that they never see.
        """
        produced = (t.id for t in reversed(self.tokens) if t.kind in (TokenKind.ORDINARY, TokenKind.BYTE))
        return next(produced, -1) + 1

    def with_rows(self, num_rows: int) -> Vocabulary:
        """The tokens that have a row in a matrix of so many rows."""
        roles = {role: token_id for role, token_id in self.roles.items() if token_id < num_rows}
        return Vocabulary(tuple(t for t in self.tokens if t.id < num_rows), roles)

    @cached_property
    def by_id(self) -> Mapping[int, Token]:
        """Token id to token."""
        return {t.id: t for t in self.tokens}

    @cached_property
    def by_spelling(self) -> Mapping[str, Token]:
        """Spelling to token; the lowest id where a spelling occurs twice."""
        return {t.spelling: t for t in reversed(self.tokens)}

    @cached_property
    def single_bytes(self) -> Mapping[int, int]:
        """Byte value to the id of the token that is that one byte.

        An ordinary token goes before a byte token (which is hardly ever trained where there is an
        ordinary one), then the lowest id.
        """
        single = [t for t in self.tokens if len(t.bytes) == 1 and t.kind in (TokenKind.ORDINARY, TokenKind.BYTE)]
        return {t.bytes[0]: t.id for t in sorted(single, key=lambda t: (t.kind is TokenKind.ORDINARY, -t.id))}

    @cached_property
    def byte_twins(self) -> frozenset[int]:
        """Byte-fallback tokens that the tokenizer never produces, since another token is the same byte.

        ``<0x41>`` beside ``A``: nothing ever trained its rows.
        """
        others = {t.bytes for t in self.tokens if t.kind in (TokenKind.ORDINARY, TokenKind.ADDED)}
        return frozenset(t.id for t in self.tokens if t.kind is TokenKind.BYTE and t.bytes in others)

    def ids(self, *kinds: TokenKind) -> np.ndarray:
        """Ids of the tokens of the given kinds (all kinds where none is given), ascending, int64."""
        return np.array([t.id for t in self.tokens if not kinds or t.kind in kinds], dtype=np.int64)

    def find(self, text: str) -> Token | None:
        """The token that a user means by `text`: by its true text first, then by its spelling.

        Of several with that text, the first that is not a byte twin, which its tokenizer never produces.
        """
        content = text.encode("utf-8")
        found = sorted((t for t in self.tokens if t.bytes == content), key=lambda t: t.id in self.byte_twins)
        return found[0] if found else self.by_spelling.get(text)


# --- reading the definition ----------------------------------------------------------------------


def _model_entries(definition: Definition) -> list[tuple[int, str]]:
    """(id, spelling) of the entries of the tokenizer's model, without added tokens, sorted."""
    model = definition.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):  # Unigram: (piece, score) pairs, the id is the place
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
"""Ids above this are taken for a corrupt file: the rows they ask for would fill any memory."""
MOST_GAPS = 2**20
"""So many ids without a token, and as many again as there are tokens, are taken for an honest file."""


def _check_id(spelling: Any, token_id: Any) -> None:
    if not isinstance(spelling, str) or type(token_id) is not int or not 0 <= token_id <= MAX_TOKEN_ID:
        raise TokenAdaptError(f"the tokenizer gives the token {spelling!r} the id {token_id!r}, which is not valid")
