"""Decode the entries of a vocabulary into bytes.

A vocabulary writes bytes in one of a few spellings. The tokenizer's definition (normalizer, pre-tokenizer, model,
decoder) says which one; the name of the tokenizer's class does not say it reliably:

==========================  ==================================================================
byte-level                  each byte is one printable character (GPT-2's alphabet)
SentencePiece (BPE or       a marker, usually U+2581, stands for the space;
Unigram)                    ``<0x0A>`` stands for a byte if byte fallback is on
words without their space   ``example`` starts a word: the pre-tokenizer drops the space before
(BERT, WordLevel)           it, and the decoder restores it; ``##ing`` continues a word
words with an end           ``example</w>`` ends a word, and includes the space after it
plain                       the spelling is the text
==========================  ==================================================================

The first two rows concern characters, the next two the boundaries of words. They can be combined: CLIP is byte-level
with ``</w>``. The names of components do not show what happens to a space. This module therefore runs a short text
through the components and looks at the result.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import Tokenizer

Definition = Mapping[str, Any]
"""The content of a ``tokenizer.json``."""

Speller = Callable[[str], "tuple[bytes, bool]"]
"""Spelling of an entry -> (its bytes, whether it is a byte-fallback token such as ``<0x0A>``)."""


def speller(definition: Definition) -> Speller:
    """Return the function that decodes this tokenizer's spellings into bytes.

    Args:
        definition: the content of its ``tokenizer.json``.
    """
    model = definition["model"]
    spaces = _Spaces.of(definition)
    characters = _characters(definition, spaces)
    prefix = model.get("continuing_subword_prefix") or ("##" if model.get("type") == "WordPiece" else "")
    suffix = model.get("end_of_word_suffix") or ""
    # An entry starts with a space if the decoder restores a dropped one. WordPiece's entries do so by convention, also
    # in a definition without a pre-tokenizer.
    starts = not suffix and (spaces.come_back if spaces.are_dropped else model.get("type") == "WordPiece")
    if not (prefix or suffix or starts):
        return characters
    # If the entries hold the spaces themselves, the suffix marks only the end of a word and adds no space.
    ends = bool(suffix) and (spaces.are_dropped or spaces.marker is None)
    return partial(_word, characters, prefix, suffix, b" " if starts else b"", b" " if ends else b"")


def components(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield a part of a tokenizer.json, such as its normalizer, and the members of a ``Sequence``, in order and at any
    depth.

    >>> [p["type"] for p in components({"type": "Sequence", "decoders": [{"type": "Fuse"}]})]
    ['Sequence', 'Fuse']
    """
    if part is None:
        return
    yield part
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for member in part.get(key) or ():
            yield from components(member)


# --- where the spaces are ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spaces:
    """The treatment of the space between two words."""

    marker: str | None = None
    """The characters that replace a space before the model sees the text; None if it stays a space or is dropped."""
    are_dropped: bool = False
    """Whether the model gets words without their spaces."""
    come_back: bool = False
    """Whether the decoder puts a space before every entry that does not continue a word."""

    @classmethod
    def of(cls, definition: Definition) -> _Spaces:
        """Find out by running two words through normalizer and pre-tokenizer, and two entries through the decoder."""
        try:
            tokenizer = _without_model(definition)
            before = _encoded("x y", tokenizer)
            is_joined = _decoded(["x", "y"], tokenizer) == "x y"
            is_usual = _decoded(["x▁y"], tokenizer) == "x y"
        except Exception:  # `tokenizers` cannot read a component; a definition that comes from a file never gets here
            return cls()
        start, end = before.find("x"), before.rfind("y")
        between = before[start + 1 : end] if 0 <= start < end else " "
        # A definition may lack the normalizer that writes the marker, and still have the decoder that reads it.
        if between == " " and is_usual:
            between = "▁"
        return cls(between if between not in ("", " ") else None, not between, is_joined)


def _without_model(definition: Definition) -> Tokenizer:
    """Build a tokenizer with the components before and after the model, and with an empty vocabulary."""
    parts = {key: definition.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": empty, **parts}))


def _encoded(text: str, tokenizer: Tokenizer) -> str:
    """Return the text that the model gets, with its pre-tokenized parts joined."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        text = "".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return text


def _decoded(spellings: list[str], tokenizer: Tokenizer) -> str:
    """Decode some entries. Without a decoder, `tokenizers` joins them with spaces."""
    decoder = tokenizer.decoder
    return " ".join(spellings) if decoder is None else str(decoder.decode(spellings))


def _word(
    characters: Speller, prefix: str, suffix: str, before: bytes, after: bytes, spelling: str
) -> tuple[bytes, bool]:
    """Decode an entry whose prefix or suffix marks a word boundary: remove the mark, and add the space that it means.

    Args:
        characters: decodes the rest of the entry.
        prefix: mark of an entry that continues a word (``##``); empty if there is none.
        suffix: mark of an entry that ends a word (``</w>``); empty if there is none.
        before: bytes before an entry that starts a word.
        after: bytes after an entry that ends a word.
        spelling: the entry.
    """
    rest = spelling
    if prefix and len(rest) > len(prefix) and rest.startswith(prefix):
        rest, before = rest[len(prefix) :], b""
    if suffix and rest.endswith(suffix):
        rest = rest[: -len(suffix)]
    else:
        after = b""
    # A word starts after a space, but BERT's pre-tokenizer also isolates punctuation and ideographs, which
    # follow their neighbour directly.
    if len(spelling) == 1 and not _is_word_character(spelling):
        before = b""
    content, is_byte = characters(rest)
    return (content, True) if is_byte else (before + content + after, False)


def _is_word_character(character: str) -> bool:
    if unicodedata.category(character)[0] not in "LNM":
        return False
    return not unicodedata.name(character, "").startswith("CJK")


# --- how characters are spelt --------------------------------------------------------------------


def _characters(definition: Definition, spaces: _Spaces) -> Speller:
    """Return the function that decodes the characters inside a word."""
    decoder = list(components(definition.get("decoder")))
    front = list(components(definition.get("pre_tokenizer"))) + list(components(definition.get("normalizer")))
    if any(part["type"] == "ByteLevel" for part in decoder + front):
        return _byte_level
    fallback = bool(definition["model"].get("byte_fallback")) or any(part["type"] == "ByteFallback" for part in decoder)
    marker = _space_marker(decoder, front) or spaces.marker
    return partial(_sentencepiece, marker, fallback) if marker is not None or fallback else _plain


def _space_marker(decoder: list[Mapping[str, Any]], front: list[Mapping[str, Any]]) -> str | None:
    """Return the marker of a space in a SentencePiece vocabulary, if a component of the definition names it."""
    for part in decoder + front:
        if part["type"] == "Metaspace":
            return str(part.get("replacement", "▁"))
    for part in decoder:
        if part["type"] == "Replace" and part.get("content") == " " and (marker := _literal(part["pattern"])):
            return marker
    for part in front:
        if part["type"] == "Replace" and _literal(part.get("pattern", {})) == " ":
            return str(part["content"])
    return None


def _literal(pattern: Mapping[str, Any]) -> str | None:
    r"""Return the one string that a pattern matches; None if the pattern may match other strings, too.

    >>> _literal({"String": " "}), _literal({"Regex": "▁"}), _literal({"Regex": r"\s+"})
    (' ', '▁', None)
    """
    if isinstance(text := pattern.get("String"), str):
        return text
    regex = str(pattern.get("Regex") or "")
    return regex if regex and regex == re.escape(regex).replace("\\ ", " ") else None


def byte_alphabet() -> list[str]:
    """Return GPT-2's alphabet: the printable character that stands for each of the 256 byte values.

    >>> byte_alphabet()[ord("A")], byte_alphabet()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    alphabet = {b: chr(b) for b in printable} | {b: chr(0x100 + n) for n, b in enumerate(others)}
    return [alphabet[b] for b in range(256)]


class _ByteOfCharacter(dict[int, int]):
    """A table for `str.translate`. Other characters become one that Latin-1 cannot encode, so that encoding fails."""

    def __missing__(self, key: int) -> int:
        return 0x100


_BYTE_OF_CHARACTER = _ByteOfCharacter({ord(c): b for b, c in enumerate(byte_alphabet())})
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _plain(spelling: str) -> tuple[bytes, bool]:
    return spelling.encode("utf-8", "surrogatepass"), False


def _byte_level(spelling: str) -> tuple[bytes, bool]:
    try:
        return spelling.translate(_BYTE_OF_CHARACTER).encode("latin-1"), False
    except UnicodeEncodeError:  # a character outside the alphabet: `tokenizers` then decodes the entry as plain text
        return _plain(spelling)


def _sentencepiece(marker: str | None, byte_fallback: bool, spelling: str) -> tuple[bytes, bool]:
    if byte_fallback and (match := _BYTE_TOKEN.fullmatch(spelling)):
        return bytes([int(match[1], 16)]), True
    return _plain(spelling if marker is None else spelling.replace(marker, " "))
