"""How the entries of a vocabulary stand for bytes.

A tokenizer spells bytes in one of a few ways, and says which in its own definition (normalizer, pre-tokenizer,
model, decoder), never reliably in its class name:

==========================  ==================================================================
byte-level                  each byte is one printable character (GPT-2's alphabet)
SentencePiece (BPE or       a marker, usually U+2581, stands for the space;
Unigram)                    ``<0x0A>`` stands for a byte where byte fallback is on
words without their space   ``example`` starts a word: the space before it was thrown away, and
(BERT, WordLevel)           the decoder puts it back; ``##ing`` continues a word
words with an end           ``example</w>`` ends a word, with the space after it
plain                       the spelling is the text
==========================  ==================================================================

The first two spell characters, the next two say where words begin and end. They can come together: CLIP is
byte-level with ``</w>``. What happens to a space is not guessed from the names of components, but tried.
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
"""A spelling -> the bytes it stands for, and whether it is a byte-fallback token such as ``<0x0A>``."""


def speller(definition: Definition) -> Speller:
    """Choose how this tokenizer's spellings stand for bytes, from its own definition."""
    model = definition["model"]
    spaces = _Spaces.of(definition)
    characters = _characters(definition, spaces)
    prefix = model.get("continuing_subword_prefix") or ("##" if model.get("type") == "WordPiece" else "")
    suffix = model.get("end_of_word_suffix") or ""
    starts = not suffix and (spaces.come_back if spaces.are_dropped else model.get("type") == "WordPiece")
    if not (prefix or suffix or starts):
        return characters
    # Where the space is in the words already, an end of a word is only that.
    ends = bool(suffix) and (spaces.are_dropped or spaces.marker is None)
    return partial(_word, characters, prefix, suffix, b" " if starts else b"", b" " if ends else b"")


def components(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normalizer, pre-tokenizer or decoder, and for a ``Sequence`` each of its members, in order.

    >>> [p["type"] for p in components({"type": "Sequence", "decoders": [{"type": "Fuse"}]})]
    ['Sequence', 'Fuse']
    """
    if part is None:
        return
    yield part
    for key in ("normalizers", "pretokenizers", "decoders"):
        for member in part.get(key) or ():
            yield from components(member)


# --- where the spaces are ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spaces:
    """What becomes of the space between two words."""

    marker: str | None = None
    """What stands for it in the text that the model gets; None where that is the space itself, or nothing."""
    are_dropped: bool = False
    """The model gets words without it."""
    come_back: bool = False
    """The decoder puts one before every entry that does not continue a word."""

    @classmethod
    def of(cls, definition: Definition) -> _Spaces:
        """Send two words through the normalizer and the pre-tokenizer, and two entries through the decoder."""
        try:
            tokenizer = _without_model(definition)
            before = _encoded("x y", tokenizer)
            is_joined = _decoded(["x", "y"], tokenizer) == "x y"
            is_usual = _decoded(["x▁y"], tokenizer) == "x y"
        except Exception:  # a part that `tokenizers` cannot read, in a definition that no file holds
            return cls()
        start, end = before.find("x"), before.rfind("y")
        between = before[start + 1 : end] if 0 <= start < end else " "
        if between == " " and is_usual:  # a decoder without its encoder
            between = "▁"
        return cls(between if between not in ("", " ") else None, not between, is_joined)


def _without_model(definition: Definition) -> Tokenizer:
    """A tokenizer with the parts before and after the model, and no tokens."""
    parts = {key: definition.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": empty, **parts}))


def _encoded(text: str, tokenizer: Tokenizer) -> str:
    """What the model gets of a text, in one piece."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is not None:
        text = "".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return text


def _decoded(spellings: list[str], tokenizer: Tokenizer) -> str:
    """What the entries decode to; without a decoder, `tokenizers` puts spaces between them."""
    decoder = tokenizer.decoder
    return " ".join(spellings) if decoder is None else str(decoder.decode(spellings))


def _word(
    characters: Speller, prefix: str, suffix: str, before: bytes, after: bytes, spelling: str
) -> tuple[bytes, bool]:
    """An entry of a vocabulary that tells where words begin or end: spaces at these places, and no signs."""
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
    """How the definition spells what is inside a word."""
    decoder = list(components(definition.get("decoder")))
    front = list(components(definition.get("pre_tokenizer"))) + list(components(definition.get("normalizer")))
    if any(part["type"] == "ByteLevel" for part in decoder + front):
        return _byte_level
    fallback = bool(definition["model"].get("byte_fallback")) or any(part["type"] == "ByteFallback" for part in decoder)
    marker = _space_marker(decoder, front) or spaces.marker
    return partial(_sentencepiece, marker, fallback) if marker is not None or fallback else _plain


def _space_marker(decoder: list[Mapping[str, Any]], front: list[Mapping[str, Any]]) -> str | None:
    """The characters that stand for a space in a SentencePiece vocabulary, as the definition names them; or None."""
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
    r"""The one string that a pattern matches; None where it may match others.

    >>> _literal({"String": " "}), _literal({"Regex": "▁"}), _literal({"Regex": r"\s+"})
    (' ', '▁', None)
    """
    if isinstance(text := pattern.get("String"), str):
        return text
    regex = str(pattern.get("Regex") or "")
    return regex if regex and regex == re.escape(regex).replace("\\ ", " ") else None


def byte_alphabet() -> list[str]:
    """GPT-2's alphabet: the printable character that spells each of the 256 byte values.

    >>> byte_alphabet()[ord("A")], byte_alphabet()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    alphabet = {b: chr(b) for b in printable} | {b: chr(0x100 + n) for n, b in enumerate(others)}
    return [alphabet[b] for b in range(256)]


class _ByteOfCharacter(dict[int, int]):
    """For `str.translate`; a character outside the alphabet becomes one that Latin-1 cannot encode."""

    def __missing__(self, key: int) -> int:
        return 0x100


_BYTE_OF_CHARACTER = _ByteOfCharacter({ord(c): b for b, c in enumerate(byte_alphabet())})
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _plain(spelling: str) -> tuple[bytes, bool]:
    return spelling.encode("utf-8", "surrogatepass"), False


def _byte_level(spelling: str) -> tuple[bytes, bool]:
    try:
        return spelling.translate(_BYTE_OF_CHARACTER).encode("latin-1"), False
    except UnicodeEncodeError:  # not spelt in the alphabet: `tokenizers` then decodes it as it stands
        return _plain(spelling)


def _sentencepiece(marker: str | None, byte_fallback: bool, spelling: str) -> tuple[bytes, bool]:
    if byte_fallback and (match := _BYTE_TOKEN.fullmatch(spelling)):
        return bytes([int(match[1], 16)]), True
    return _plain(spelling if marker is None else spelling.replace(marker, " "))
