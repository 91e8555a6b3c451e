"""Add tokens to an existing vocabulary by continuing its merges.

New merges come after all old merges. The pre-tokenizer becomes coarser only at boundaries that no old merge can cross
(see `coarsening`). A text is therefore first segmented exactly as before, and new merges then join the resulting
tokens. A text to which no new merge applies keeps its segmentation.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.coarsening import Coarsening
from mergekit_tokenadapt.supertokens.continuing import lacks_characters, learn_all
from mergekit_tokenadapt.supertokens.counting import MAX_IDS, Prepare, batches
from mergekit_tokenadapt.supertokens.dropping import check_number, least_used, replace_tokens
from mergekit_tokenadapt.supertokens.learning import NewMerge, append_merges
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.reach import pruned, tell_dropped, unmergeable
from mergekit_tokenadapt.supertokens.reading import watching
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, tokenizer_of
from mergekit_tokenadapt.tokenizer.segmentation import without_dummy_space
from mergekit_tokenadapt.tokenizer.spelling import speller
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer."""

    definition: Mapping[str, Any]
    """The content of ``tokenizer.json``."""
    added: tuple[int, ...] = ()
    """Ids of the new tokens, ascending."""
    dropped: tuple[Token, ...] = ()
    """Tokens of the base that were removed."""
    notes: tuple[str, ...] = ()
    """What could not be learned and why, one sentence each."""


def extend(
    base: TokenizerFiles, corpus: Corpus, num_tokens: int, rules: Rules, limits: Limits, *, drop: bool = False
) -> Extension:
    """Add tokens to a tokenizer.

    Every token of the base keeps its id and its merges. New tokens get the ids after the highest id of the base. With
    `drop`, they get the ids of the removed tokens instead.

    Args:
        base: the tokenizer to extend.
        corpus: the text to learn from. It is read once, with `drop` twice.
        num_tokens: number of tokens to add. Fewer are added where the text has no more frequent pairs.
        rules: which texts a new token may have.
        limits: memory, minimum frequency and amount of text.
        drop: remove as many of the base's tokens as are added, those that the text uses least.

    Raises:
        TokenAdaptError: the base cannot be extended, fewer tokens can be removed than added, or there is no text.
    """
    if num_tokens < 0:
        raise TokenAdaptError(f"{num_tokens} tokens to add: give 0 or more")
    if base.vocabulary.num_ids + num_tokens > MAX_IDS:
        raise TokenAdaptError(f"{num_tokens:,} tokens to add are too many: ids up to {MAX_IDS:,} can be learned")
    if num_tokens == 0:
        return Extension(base.definition)
    coarse = Coarsening.of(base.definition, rules)
    if drop:
        check_number(base.vocabulary, base.definition["model"], num_tokens)
    old = with_all_ids(_without_shortcut(coarse.definition, base.vocabulary), base.vocabulary)
    _check_same_segmentation(base.definition, old)
    prepare = iter if coarse.seams else _lines
    # Pieces of the corpus continue one another. SentencePiece's space at the start of a text must not be counted.
    counted = without_dummy_space(old)
    characters, merges = _learn(counted, base, corpus, num_tokens, rules, limits, prepare)
    learned = list(dict.fromkeys([*characters, *(m.spelling for m in merges)]))
    grown = {**old, "model": with_new_tokens(old["model"], base.vocabulary, characters, merges)}
    grown, unreachable = pruned(grown, base.role_tokens, learned)
    tell_dropped(unreachable)
    model, spellings = grown["model"], [s for s in learned if s in grown["model"]["vocab"]]
    dropped: list[Token] = []
    if drop:
        usage = _usage({**counted, "model": model}, corpus, limits, prepare)
        dropped = least_used(base.vocabulary, model, usage, len(spellings))
        model = replace_tokens(model, dropped, spellings)
    result = {**old, "model": model}
    extended = Vocabulary.from_definition(result, base.role_tokens)
    check_old_tokens(base.vocabulary, extended, {t.id for t in dropped})
    added = sorted(extended.by_spelling[s].id for s in spellings)
    return Extension(result, tuple(added), tuple(dropped), coarse.notes)


def _learn(
    definition: Mapping[str, Any],
    base: TokenizerFiles,
    corpus: Corpus,
    num_tokens: int,
    rules: Rules,
    limits: Limits,
    prepare: Prepare,
) -> tuple[list[str], list[NewMerge]]:
    """Return new single-character tokens and new merges.

    Single characters are added where a SentencePiece vocabulary lacks many characters of the text.
    """
    vocabulary, characters = base.vocabulary, list[str]()
    if definition["model"].get("byte_fallback") and lacks_characters(definition, vocabulary, corpus):
        characters = _missing_characters(definition, corpus, limits)[:num_tokens]
        definition = {**definition, "model": with_new_tokens(definition["model"], vocabulary, characters, [])}
        vocabulary = Vocabulary.from_definition(definition, base.role_tokens)
    missing = num_tokens - len(characters)
    return characters, learn_all(definition, vocabulary, corpus, missing, rules, limits, prepare)


def with_new_tokens(
    model: Mapping[str, Any], old: Vocabulary, characters: Sequence[str], merges: Sequence[NewMerge]
) -> dict[str, Any]:
    """Return a copy of the BPE model with new characters and merges. New tokens get ids after the highest old id."""
    vocab = {**model["vocab"], **{c: n for n, c in enumerate(characters, start=old.num_ids)}}
    first = old.num_ids + len(characters)
    return append_merges({**model, "vocab": vocab}, merges, range(first, first + len(merges)))


def _missing_characters(definition: Definition, corpus: Corpus, limits: Limits) -> list[str]:
    """Return the letters that a SentencePiece vocabulary spells in bytes, most frequent first. They need no merges."""
    known, found = definition["model"]["vocab"], Counter[str]()
    for part in corpus.counted(_Counter(definition).characters, watching(corpus, "characters", limits)):
        found.update(part)
    # An ASCII character is one byte, and has a byte token already. A new token would be a second copy of it.
    letters = [c for c, n in found.items() if c not in known and n >= limits.min_frequency and not c.isascii()]
    letters = [c for c in letters if c.isalpha() or unicodedata.category(c)[0] == "M"]
    return sorted(letters, key=lambda c: (-found[c], c))


def _usage(definition: Definition, corpus: Corpus, limits: Limits, prepare: Prepare) -> np.ndarray:
    """Count how often each token occurs in the text, int64 [ids]."""
    usage = np.zeros(max(definition["model"]["vocab"].values()) + 1, dtype=np.int64)
    for part in corpus.counted(_Counter(definition, prepare).tokens, watching(corpus, "usage", limits)):
        usage[np.fromiter(part, np.int64)] += np.fromiter(part.values(), np.int64)
    return usage


@dataclass(frozen=True)
class _Counter:
    """Counts over lists of pieces. The object can be pickled; each process makes its own tokenizer once."""

    definition: Definition
    prepare: Prepare = iter

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.definition)

    def characters(self, pieces: Sequence[str]) -> Counter[str]:
        """Count how often each character occurs after normalization."""
        normalizer, found = self._tokenizer.normalizer, Counter[str]()
        for piece in pieces:
            found.update(normalizer.normalize_str(piece) if normalizer else piece)
        return found

    def tokens(self, pieces: Sequence[str]) -> Counter[int]:
        """Count how often each token occurs."""
        found = Counter[int]()
        for batch in batches(self.prepare(iter(pieces))):
            for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                found.update(encoding.ids)
        return found


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Yield single lines. Without pre-tokenization a whole piece would be one word, and BPE on such a word is slow."""
    for piece in pieces:
        yield from piece.splitlines(keepends=True)


# --- checks that old tokens and old segmentations stay -------------------------------------------


def _without_shortcut(definition: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a copy of the definition without ``ignore_merges``, so that merges alone make every token.

    With ``ignore_merges``, a pre-tokenized word that equals a token becomes that token, whatever the merges say. A
    coarser pre-tokenizer joins words, and this lookup would no longer find them. The merges therefore have to give the
    same tokens.

    Raises:
        TokenAdaptError: the merges do not make some of the tokens.
    """
    if not definition["model"].get("ignore_merges"):
        return dict(definition)
    lost = unmergeable(definition, (t for t in vocabulary if t.kind is TokenKind.ORDINARY))
    if lost:
        shown = ", ".join(repr(vocabulary.by_id[i].label) for i in sorted(lost)[:5])
        raise TokenAdaptError(
            f"the base looks words up before it merges (ignore_merges), and {len(lost)} of its tokens cannot be made "
            f"by its merges, among them {shown}: new tokens across words would change how their text is segmented"
        )
    return {**definition, "model": {**definition["model"], "ignore_merges": False}}


def with_all_ids(definition: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a copy in which the model's vocabulary contains the added tokens, too.

    `tokenizers` ignores the id of an added token that is not in the model's vocabulary and gives it the next free id.
    That id would change when new tokens are appended.

    Raises:
        TokenAdaptError: as an entry of the model, an added token would spell other bytes than its text. In a byte-level
            vocabulary, for instance, the ``é`` of ``café`` spells the byte 0xE9.
    """
    vocab, spell_out = dict(definition["model"]["vocab"]), speller(definition)
    for token in vocabulary:
        if token.kind not in (TokenKind.ADDED, TokenKind.SPECIAL) or token.spelling in vocab:
            continue
        content, _ = spell_out(token.spelling)
        if content != token.bytes:
            raise TokenAdaptError(
                f"the base cannot be extended: its added token {token.label!r} keeps its id only as an entry of the "
                f"model's vocabulary, and there its spelling stands for the bytes {content!r}. Take the token out of "
                "the base's tokenizer.json"
            )
        vocab[token.spelling] = token.id
    added = definition.get("added_tokens") or []
    return {**definition, "model": {**definition["model"], "vocab": vocab}, "added_tokens": added}


def _check_same_segmentation(before: Definition, after: Definition) -> None:
    """Compare the token ids of all built-in texts before and after the change of the pre-tokenizer.

    The construction of the coarser pre-tokenizer should rule a difference out. This check runs before the first slow
    step in case it does not.

    Raises:
        TokenAdaptError: a text gets different tokens.
    """
    texts = [document for name in BUILTIN for document in builtin_text(name).documents]
    old, new = (tokenizer_of(d).encode_batch(texts, add_special_tokens=False) for d in (before, after))
    for text, one, other in zip(texts, old, new, strict=True):
        if one.ids != other.ids:
            raise TokenAdaptError(
                f"with a pre-tokenizer that joins words, the base would segment {text[:60]!r} differently; "
                "it cannot be extended"
            )


def check_old_tokens(old: Vocabulary, new: Vocabulary, dropped: Iterable[int]) -> None:
    """Check that every token of the base that was not dropped is unchanged.

    Raises:
        AssertionError: a token changed; this is a bug of this package.
    """
    gone = set(dropped)
    changed = [t for t in old if t.id not in gone and new.by_id.get(t.id) != t]
    if changed:
        raise AssertionError(f"{len(changed)} old tokens changed, first {changed[0]}")
