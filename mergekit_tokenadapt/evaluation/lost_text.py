"""Does a text come back from its tokens? A tokenizer that loses some of it has less to predict, and looks better."""

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
"""What tokenizers throw away, and the text without it, in the order in which they are applied."""
UNKNOWN = "unknown characters"
OTHER = "other characters"


@dataclass(frozen=True)
class LostText:
    """What a tokenizer loses of a text."""

    documents: int
    """Documents that do not come back."""
    of: int
    """Documents in all."""
    unknown_tokens: int
    """Tokens that stand for what the tokenizer does not know."""
    what: tuple[str, ...]
    """Keys of `CHANGES`, `UNKNOWN`, `OTHER`."""

    def describe(self) -> dict[str, Any]:
        """For a report."""
        return {
            "documents": self.documents,
            "of": self.of,
            "unknown_tokens": self.unknown_tokens,
            "what": list(self.what),
        }


def lost_text(tokenizer: TokenizerFiles, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> LostText | None:
    """What is lost of documents that were encoded without special tokens; None where all come back.

    Spelling that Unicode holds to be the same (NFC), white space at the ends of a document, and U+2581 for a space do
    not count: no tokenizer gains by these.

    Args:
        tokenizer: that of the ids.
        texts: the documents.
        ids: their tokens.
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
    """One sentence on what is lost of which text (by name, as `LostText.describe` has it); None where nothing is."""
    found = {name: one for name, one in lost.items() if one}
    if not found:
        return None
    what = [w for w in (*CHANGES, UNKNOWN, OTHER) if any(w in one["what"] for one in found.values())]
    documents, of = (sum(one[key] for one in found.values()) for key in ("documents", "of"))
    return (
        f"loses {', '.join(what)} of {', '.join(found)} ({documents} of {of} documents do not come back from their "
        "tokens): it has less text to predict, and its figures there do not compare"
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.replace("▁", " ").strip())


def _changes(text: str, back: str) -> set[str]:
    """The changes without which the two would differ if all others were made to both."""
    if _changed(text, CHANGES) != _changed(back, CHANGES):
        return {OTHER}
    return {
        name for name in CHANGES if _changed(text, CHANGES.keys() - {name}) != _changed(back, CHANGES.keys() - {name})
    }


def _changed(text: str, names: Collection[str]) -> str:
    text = _plain(text)
    for name, change in CHANGES.items():
        text = change(text) if name in names else text
    return unicodedata.normalize("NFC", text)
