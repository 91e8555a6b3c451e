"""Tell which sequences of tokens a tokenizer produces. A model never sees other sequences in training.

A sequence is called *canonical* if it is the start of the tokenizer's output for some text. To decide this, the bytes
of the sequence are encoded again, followed by one of these endings:

- Nothing, if the bytes are whole characters: the test is ``encode(decode(tokens)) == tokens``.
- One more character of each class that the look-ahead ``\\s+(?!\\S)`` of most pre-tokenizers distinguishes, if the
  bytes end in white space.
- The rest of a character, if the bytes end within one. If one byte is missing, all 64 are tried. If two or three are
  missing, 64 evenly spread combinations are tried, so a sequence that only another one would show is missed.

The result is exact (up to the last point) for BPE whose pre-tokenizer looks ahead by no more than one character. Other
tokenizers are refused. Texts are encoded without the special tokens, and without the added tokens that depend on the
text around them (`AROUND`): the strings of these tokens are ordinary text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Encoding

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import plain_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, components

PROBES = ("a", "1", ".", "\n", " ")
"""Characters that may follow white space: a letter, a digit, punctuation, a line end, more white space."""
SPARED = {*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)}
"""Bytes that a tokenizer need not have: control characters, and bytes that UTF-8 does not use (yet).

A text with a byte that the tokenizer lacks cannot be read.
"""
RESPELLS_SPACES = {"Prepend", "Replace", "Sequence"}
"""Normalizers that only spell spaces differently."""
UNICODE_FORMS = {"NFC"}
"""Normalizers that are removed, because the text is assumed to be in this Unicode form already."""
AROUND = ("lstrip", "rstrip", "single_word")
"""Flags of added tokens that replace the white space beside them, or that are recognised only between words."""


class Canonical:
    """Finds canonical sequences of one tokenizer.

    Args:
        tokenizer: byte-level BPE, or BPE with byte fallback.

    Raises:
        TokenAdaptError: the tokenizer is of another kind, or has a component for which the results would be wrong.
    """

    def __init__(self, tokenizer: TokenizerFiles) -> None:
        check_supported(tokenizer)
        self.vocabulary = tokenizer.vocabulary
        self._encoder = plain_tokenizer(_plain_definition(tokenizer), tokenizer.vocabulary)
        self.dummy_space = _dummy_space(tokenizer)
        """Bytes that the tokenizer puts before a text: one space, or nothing."""
        kinds = (TokenKind.ORDINARY, TokenKind.BYTE, TokenKind.ADDED)
        usable = [t for t in self.vocabulary if t.kind in kinds and t.bytes]
        usable.sort(key=lambda t: (t.bytes, t.id))
        self.contents = [t.bytes for t in usable]
        """Bytes of all tokens that a text can have, sorted, so that tokens with a common start are neighbours."""
        self.ids = np.array([t.id for t in usable], dtype=np.int64)
        """int64: id of each entry of `contents`."""
        self.longest = max(map(len, self.contents))
        self._bytes_of = {t.id: t.bytes for t in usable}
        inside = (content[place - 1] for content in self.contents for place in _spaces(content))
        self._before_space = frozenset(inside)  # bytes that precede a space within some token

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of a sequence of tokens."""
        return b"".join(self._bytes_of[i] for i in ids)

    def encode(self, content: bytes) -> tuple[int, ...] | None:
        """Return the tokenizer's tokens for a text, or None if the text is not UTF-8."""
        return tuple(self._encode([content])[0].ids) if b"" in endings(content) else None

    def sequences(self, content: bytes) -> set[tuple[int, ...]]:
        """Return all canonical sequences for exactly these bytes. The set is empty if some token always crosses their
        end.
        """
        found = set()
        for encoding in self._encode([content + ending for ending in endings(content)]):
            ids = self._beginning(encoding.ids, len(content))
            if ids is not None:
                found.add(ids)
        return found

    def extend(self, window: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Return whether each of the sequences ``window + [token]`` is canonical, bool [tokens].

        Args:
            window: the end of the preceding sequence, from a position that `last_boundary` returned.
            tokens: ids of the possible next tokens.
        """
        before = self.bytes_of(window)
        contents = [before + self._bytes_of[token] for token in tokens]
        is_canonical = np.zeros(len(tokens), dtype=bool)
        tails = [endings(content) for content in contents]
        # The first ending alone decides nearly all sequences. Only the rest is encoded with the other endings.
        for part in (slice(0, 1), slice(1, None)):
            tries = [(n, tail) for n in np.flatnonzero(~is_canonical).tolist() for tail in tails[n][part]]
            encodings = self._encode([contents[n] + tail for n, tail in tries])
            for (n, _), encoding in zip(tries, encodings, strict=True):
                wanted = [*window, tokens[n]]
                is_canonical[n] |= encoding.ids[: len(wanted)] == wanted
        return is_canonical

    def last_boundary(self, ids: Sequence[int]) -> int:
        """Return the last position in a canonical sequence from which its end can be encoded on its own.

        This is a position before a word with a single space in front of it, and after something other than white space.
        Every pre-tokenizer starts a new piece there. Without a pre-tokenizer, no token has the byte before that
        position followed by a space, so no merge crosses it. The last two tokens always stay together, because later
        bytes may change them. The result is 0 if there is no such position.
        """
        for place in range(len(ids) - 2, 0, -1):
            here, last = self._bytes_of[ids[place]], self._bytes_of[ids[place - 1]][-1:]
            starts_anew = here[:1] == b" " and here[1:2].strip() and last.strip() and last < b"\x80"
            if starts_anew and last[0] not in self._before_space:
                return place
        return 0

    def _beginning(self, ids: Sequence[int], length: int) -> tuple[int, ...] | None:
        """Return the leading tokens that end exactly at byte `length`, or None."""
        end = 0
        for place, token in enumerate(ids):
            if end == length:
                return tuple(ids[:place])
            end += len(self._bytes_of.get(token, b""))
        return tuple(ids) if end == length else None

    def _encode(self, contents: Sequence[bytes]) -> list[Encoding]:
        texts = [content.decode("utf-8") for content in contents]
        encodings: list[Encoding] = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        return encodings


def _spaces(content: bytes) -> list[int]:
    """Return the positions of spaces that follow something other than white space."""
    return [n for n in range(1, len(content)) if content[n : n + 1] == b" " and content[n - 1 : n].strip()]


def endings(content: bytes) -> list[bytes]:
    """Return what to append to some bytes to see their possible segmentations. Bytes that are not UTF-8 have none."""
    complete = len(content)
    for back in range(1, min(4, len(content) + 1)):
        byte = content[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            complete = len(content) - back if size > back else complete
        if byte & 0xC0 != 0x80:
            break
    try:
        whole = content[:complete].decode("utf-8")
    except UnicodeDecodeError:
        return []
    if complete < len(content):
        return _rests(content[complete:])
    return [b"", *(p.encode() for p in PROBES)] if whole and whole[-1].isspace() else [b""]


def _rests(beginning: bytes) -> list[bytes]:
    """Return bytes that complete a character from its first bytes; see the module's docstring."""
    size = 2 if beginning[0] < 0xE0 else 3 if beginning[0] < 0xF0 else 4
    missing = size - len(beginning)
    step = {1: 1, 2: 8, 3: 16}[missing]
    # Steps of 9 and 17 instead of 8 and 16 give last bytes that differ in their low bits, too.
    values = [0x80 + (n * (step + 1)) % 64 for n in range(64 // step)] if step > 1 else list(range(0x80, 0xC0))
    found = []
    for rest in itertools.product(values, repeat=missing):
        try:
            (beginning + bytes(rest)).decode("utf-8")
        except UnicodeDecodeError:
            continue
        found.append(bytes(rest))
    return found


def check_supported(tokenizer: TokenizerFiles) -> None:
    """Check that byte probabilities can be computed with this tokenizer.

    Raises:
        TokenAdaptError: they cannot; the message names the component.
    """

    def refuse(reason: str) -> TokenAdaptError:
        return TokenAdaptError(
            f"{tokenizer.name}: {reason}; byte by byte needs byte-level BPE or BPE with byte fallback"
        )

    model = tokenizer.definition["model"]
    if model["type"] != "BPE":
        raise refuse(f"its tokenizer is {model['type']}")
    missing = set(range(256)) - SPARED - set(tokenizer.vocabulary.single_bytes)
    if missing:
        raise refuse(f"it has no token for {len(missing)} bytes (0x{min(missing):02X} for one)")
    if model.get("dropout"):
        raise refuse("its BPE drops merges at random")
    for part in components(tokenizer.definition.get("normalizer")):
        if part["type"] not in RESPELLS_SPACES | UNICODE_FORMS:
            raise refuse(f"its normalizer {part['type']} changes the text")
    for part in components(tokenizer.definition.get("pre_tokenizer")):
        pattern = str(part.get("pattern") or "")
        if "(?=" in pattern or "(?<" in pattern.replace("(?<!\\S)", ""):
            raise refuse("its pre-tokenizer looks further ahead or back than one character")


def _plain_definition(tokenizer: TokenizerFiles) -> dict[str, object]:
    """Return the definition without `UNICODE_FORMS`, and without added tokens that have a flag of `AROUND`."""
    definition = dict(tokenizer.definition)
    added = definition.get("added_tokens") or ()
    definition["added_tokens"] = [entry for entry in added if not any(entry.get(flag) for flag in AROUND)]
    normalizer = definition.get("normalizer")
    if normalizer and normalizer["type"] in UNICODE_FORMS:
        definition["normalizer"] = None
    elif normalizer and normalizer["type"] == "Sequence":
        members = [part for part in normalizer["normalizers"] if part["type"] not in UNICODE_FORMS]
        definition["normalizer"] = {**normalizer, "normalizers": members}
    return definition


def _dummy_space(tokenizer: TokenizerFiles) -> bytes:
    """Return what the tokenizer puts before a text that does not start with a space."""
    with_text = tokenizer.fast_tokenizer().encode("a", add_special_tokens=False).ids
    content = b"".join(tokenizer.vocabulary.by_id[i].bytes for i in with_text)
    return content.removesuffix(b"a")
