"""Check whether a text can be decoded from its tokens.

A tokenizer that drops parts of a text leaves the model less to predict, so that its bits per byte look too good.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import unknown_ids


def _without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c)[0] != "M")


CHANGES: Mapping[str, Callable[[str], str]] = {
    "compatibility forms": lambda text: unicodedata.normalize("NFKC", text),
    "capital letters": str.casefold,
    "accents": _without_marks,
    "white space": lambda text: "".join(text.split()),
}
"""Kind of information that tokenizers drop -> function that drops it, in the order of application."""
UNKNOWN = "unknown characters"
"""Kind of loss: the tokenizer has unknown tokens."""
OTHER = "other characters"
"""Kind of loss: none of the others."""


@dataclass(frozen=True)
class LostText:
    """Information about a text that a tokenizer does not preserve."""

    documents: int
    """Number of documents that do not decode to themselves."""
    of: int
    """Number of all documents."""
    unknown_tokens: int
    """Number of unknown tokens."""
    what: tuple[str, ...]
    """Kinds of lost information: keys of `CHANGES`, `UNKNOWN`, `OTHER`."""

    def describe(self) -> dict[str, Any]:
        """Return the fields for a report."""
        return {
            "documents": self.documents,
            "of": self.of,
            "unknown_tokens": self.unknown_tokens,
            "what": list(self.what),
        }


def lost_text(tokenizer: TokenizerFiles, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> LostText | None:
    """Find what the tokens of documents do not preserve. Returns None if all documents decode to themselves.

    Three differences do not count, since no tokenizer gains by them: another Unicode spelling with the same NFC form,
    white space at the ends of a document, and U+2581 for a space.

    Args:
        tokenizer: the tokenizer of the ids.
        texts: the documents.
        ids: the tokens of each document, without special tokens.
    """
    backs = tokenizer.fast_tokenizer().decode_batch([list(i) for i in ids], skip_special_tokens=False)
    pairs = [(text, back) for text, back in zip(texts, backs, strict=True) if _plain(text) != _plain(back)]
    if not pairs:
        return None
    unknown = unknown_ids(tokenizer.definition, tokenizer.vocabulary)
    num_unknown = sum(i in unknown for document in ids for i in document)
    found = {change for pair in pairs for change in _changes(*pair)}
    if num_unknown:
        found = (found - {OTHER}) | {UNKNOWN}
    what = tuple(name for name in (*CHANGES, UNKNOWN, OTHER) if name in found)
    return LostText(len(pairs), len(texts), num_unknown, what)


def sentence(lost: Mapping[str, Mapping[str, Any] | None]) -> str | None:
    """Return one sentence on what is lost of which texts, or None if nothing is.

    Args:
        lost: name of the text -> `LostText.describe`, or None.
    """
    found = {name: one for name, one in lost.items() if one}
    if not found:
        return None
    what = [w for w in (*CHANGES, UNKNOWN, OTHER) if any(w in one["what"] for one in found.values())]
    documents, of = (sum(one[key] for one in found.values()) for key in ("documents", "of"))
    return (
        f"loses {', '.join(what)} of {', '.join(found)} ({documents} of {of} documents do not decode to themselves): "
        "the model has less text to predict, so its figures on these texts cannot be compared"
    )


def _plain(text: str) -> str:
    """Return a text without the differences that do not count, see `lost_text`."""
    return unicodedata.normalize("NFC", text.replace("▁", " ").strip())


def _changes(text: str, back: str) -> set[str]:
    """Return the kinds of change that the two texts differ by: without this kind, all others together do not explain
    it.
    """
    if _changed(text, CHANGES) != _changed(back, CHANGES):
        return {OTHER}
    return {
        name for name in CHANGES if _changed(text, CHANGES.keys() - {name}) != _changed(back, CHANGES.keys() - {name})
    }


def _changed(text: str, names: Collection[str]) -> str:
    """Return the text after the named changes."""
    text = _plain(text)
    for name, change in CHANGES.items():
        text = change(text) if name in names else text
    return unicodedata.normalize("NFC", text)
