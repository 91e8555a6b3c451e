"""Which tokens of the source can be appended to a base tokenizer, in which order, and how the base would spell them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mergekit_tokenadapt.supertokens.counting import batches
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, tokenizer_of
from mergekit_tokenadapt.tokenizer.habits import habits
from mergekit_tokenadapt.tokenizer.segmentation import without_dummy_space
from mergekit_tokenadapt.tokenizer.spelling import speller
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind

SPLIT = "the base's pre-tokenizer splits their text"
CHANGED = "the base's normalizer changes their text"
TAKEN = "the base has another token of their spelling"
UNMADE = "no merges can make them, because each would also make an old token"
NUMBERS = "the base segments numbers by a rule, and they would break it"
NOT_PRODUCED = "the extended tokenizer segments their text differently"
"""Reasons to leave a token out; the end of "12 tokens were left out, because ..."."""
SEVERAL_DIGITS = re.compile("[0-9]{2}")


@dataclass
class LeftOut:
    """Tokens that cannot be appended, by reason."""

    labels: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the tokens' texts."""

    def add(self, reason: str, token: Token) -> None:
        """Record one token."""
        self.labels.setdefault(reason, []).append(token.label)

    def counts(self) -> dict[str, int]:
        """Return reason -> number of tokens."""
        return {reason: len(labels) for reason, labels in sorted(self.labels.items())}


@dataclass(frozen=True)
class Candidate:
    """A token of the source that the base could get."""

    token: Token
    """The source's token."""
    spelling: str
    """The same bytes as the base's model would spell them."""


def candidates(
    base: TokenizerFiles, source: TokenizerFiles, text: TextSet | None, left_out: LeftOut
) -> list[Candidate]:
    """Return the ordinary tokens of the source whose bytes no token of the base has.

    Parts of characters are not among them, because only merges inside a character would use them.

    Args:
        base: the tokenizer to extend.
        source: the tokenizer that has the tokens.
        text: orders the tokens by their number of occurrences in it, as the source segments it; tokens that do not
            occur are not returned. With None, tokens are in the order of their ids.
        left_out: gets the tokens that the base's tokenizer could never produce.
    """
    known = {t.bytes for t in base.vocabulary if t.kind is not TokenKind.SPECIAL}
    new: dict[bytes, Token] = {}
    for token in source.vocabulary:
        if token.kind is TokenKind.ORDINARY and token.text and token.bytes not in known:
            new.setdefault(token.bytes, token)
    tokens = list(new.values())
    if text is not None:
        usage = _usage(source, text)
        tokens = sorted((t for t in tokens if usage[t.bytes]), key=lambda t: (-usage[t.bytes], t.id))
    spell = Spelling(base.definition)
    has_rule = habits(base)["digits"] != "learned"
    found = []
    for token in tokens:
        spelling, reason = spell(token)
        if has_rule and SEVERAL_DIGITS.search(token.text or ""):
            spelling, reason = None, NUMBERS
        if spelling in base.vocabulary.by_spelling:
            spelling, reason = None, TAKEN
        if spelling is None:
            left_out.add(reason, token)
        else:
            found.append(Candidate(token, spelling))
    return found


def _usage(source: TokenizerFiles, text: TextSet) -> Counter[bytes]:
    """Count how often the source's tokens occur in a text, by their bytes."""
    library = source.fast_tokenizer()
    counts = np.zeros(source.vocabulary.num_ids, dtype=np.int64)
    for batch in batches(text.documents):
        for encoding in library.encode_batch_fast(batch, add_special_tokens=False):
            counts += np.bincount(encoding.ids, minlength=len(counts))[: len(counts)]
    usage = Counter[bytes]()
    for token in source.vocabulary:
        usage[token.bytes] += int(counts[token.id])
    return usage


class Spelling:
    """Spells tokens of other tokenizers as a tokenizer's model sees them: after normalizer and pre-tokenizer."""

    def __init__(self, definition: Definition) -> None:
        tokenizer = tokenizer_of(without_dummy_space(definition))
        normalizer, cutter = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._normalize: Callable[[str], str] = normalizer.normalize_str if normalizer else str
        self._cut = cutter.pre_tokenize_str if cutter else lambda text: [(text, (0, len(text)))]
        self._spell_out = speller(definition)

    def __call__(self, token: Token) -> tuple[str | None, str]:
        """Return the spelling and an empty string, or None and the reason why the model never sees the token's text."""
        pieces = self._cut(self._normalize(token.text or ""))
        if len(pieces) != 1:
            return None, SPLIT if pieces else CHANGED
        spelling = pieces[0][0]
        return (spelling, "") if self._spell_out(spelling)[0] == token.bytes else (None, CHANGED)
