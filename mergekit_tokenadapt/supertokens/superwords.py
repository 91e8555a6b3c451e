"""Two phases: words first, then merges across their boundaries.

SuperBPE (arXiv 2503.13423): BPE under an ordinary pre-tokenizer up to a share of the vocabulary, and then
on, without it. The second phase counts runs of tokens by frequency instead of keeping the text
("Faster Superword Tokenization", arXiv 2604.05192). Differences: boundaries are not dropped but kept where
the rules want them, in the result's own pre-tokenizer, so that training and use cut the same; and both
phases run in the trainer of `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.counting import MAX_IDS, Encode, PairCounts, Prepare, readable
from mergekit_tokenadapt.supertokens.learning import NewMerge, append_merges, learn_merges
from mergekit_tokenadapt.supertokens.pretokenizers import byte_level_split, coarsened, seams, word_pattern
from mergekit_tokenadapt.supertokens.reach import merged_spellings, pruned, tell_dropped, whole_pieces
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.terminal.progress import progress, shows_progress
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, TokenKind, Vocabulary

PAIR_BYTES = 64
"""Memory that a counted pair takes while counts are added up."""


@dataclass(frozen=True)
class Limits:
    """What learning may use up."""

    min_frequency: int = 2
    """Nothing rarer is merged."""
    max_memory: int = 4 << 30
    """Bytes for the counts of pairs and runs. Rarer things are forgotten where this is not enough."""
    words_from: int = 1 << 30
    """Bytes of text, from the beginning of the mixture, that words are learned from; 0 is all. Their trainer
    holds every distinct word."""
    quiet: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether the trainer may draw its bars."""
        return shows_progress(quiet=self.quiet)


PAIRS_PER_TOKEN = 2
"""Pairs of neighbours, most frequent first, that runs may hold for every token wanted."""
PROBE_BYTES = 1_000_000
"""Text that is looked at to find out whether characters are missing."""
MISSING_CHARACTERS = 0.01
"""Share of tokens that are parts of characters above which whole characters are learned first."""


def train_superwords(
    corpus: Corpus,
    vocab_size: int,
    *,
    rules: Rules,
    limits: Limits,
    special_tokens: Iterable[str] = (),
    pre_tokenizer: Mapping[str, Any] | None = None,
    word_share: float = 0.5,
) -> dict[str, Any]:
    """A new tokenizer definition.

    Args:
        corpus: read twice.
        vocab_size: tokens, with special ones and the 256 bytes.
        rules: what tokens may hold.
        limits: what learning may use up.
        special_tokens: get the first ids.
        pre_tokenizer: how words are cut; by `word_pattern` where there is none.
        word_share: share of the vocabulary that is learned inside words.

    Raises:
        TokenAdaptError: an option is out of range, or there is no text.
    """
    if not 0 < word_share <= 1:
        raise TokenAdaptError(f"word share is {word_share}; it is more than 0 and at most 1")
    special = list(special_tokens)
    smallest = check_size(vocab_size, len(special))
    num_words = min(vocab_size, max(smallest, round(word_share * vocab_size)))
    words = train_words(corpus, num_words, special, pre_tokenizer or byte_level_split(word_pattern()), limits, rules)
    coarse = coarsened(words, seams(rules))
    definition, dropped = pruned(coarse, {}, merged_spellings(coarse))
    tell_dropped(dropped)
    vocabulary = Vocabulary.from_definition(definition)
    missing = vocab_size - len(vocabulary)
    merges = learn_all(definition, vocabulary, corpus, missing, rules, limits)
    return {**definition, "model": append_merges(definition["model"], merges, range(vocabulary.num_ids, vocab_size))}


def check_size(vocab_size: int, num_special: int) -> int:
    """The smallest vocabulary there can be.

    Raises:
        TokenAdaptError: this one is smaller, or larger than what can be counted.
    """
    smallest = 256 + num_special
    if vocab_size > MAX_IDS:
        raise TokenAdaptError(f"a vocabulary of {vocab_size:,} tokens is too large: {MAX_IDS:,} can be learned")
    if vocab_size < smallest:
        raise TokenAdaptError(
            f"a vocabulary of {vocab_size} tokens is too small: 256 bytes and {num_special} special tokens "
            f"need {smallest}"
        )
    return smallest


def train_words(
    corpus: Corpus,
    vocab_size: int,
    special_tokens: list[str],
    pre_tokenizer: Mapping[str, Any],
    limits: Limits,
    rules: Rules | None = None,
) -> dict[str, Any]:
    """Plain byte-level BPE: the first phase, and what the result is compared with.

    Of the rules only ``max_characters`` is kept here, in bytes; characters of several are left to the next phase.
    """
    empty = Tokenizer(models.BPE())
    definition = json.loads(empty.to_str()) | {"pre_tokenizer": dict(pre_tokenizer)}
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=limits.min_frequency,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=limits.shows_progress,
        max_token_length=rules.max_characters if rules else None,
    )
    pieces = corpus.pieces(limits.words_from)
    tokenizer.train_from_iterator(readable(with_progress(pieces, corpus, "words", limits)), trainer)
    result: dict[str, Any] = json.loads(tokenizer.to_str())
    return result


def learn_all(
    definition: Definition,
    vocabulary: Vocabulary,
    corpus: Corpus,
    num_tokens: int,
    rules: Rules,
    limits: Limits,
    prepare: Prepare = iter,
) -> list[NewMerge]:
    """Merges that continue those of a tokenizer, across words as its pre-tokenizer allows.

    Where a good part of the text is spelt in parts of characters, whole characters are learned first: rules
    that speak of letters can only be kept where letters can be seen.

    Args:
        definition: the tokenizer, with the pre-tokenizer that the result will have.
        vocabulary: its tokens.
        corpus: read once; where characters are learned, twice.
        num_tokens: new tokens wanted.
        rules: what they may hold.
        limits: what learning may use up.
        prepare: a last step on the pieces of text before they are encoded.
    """
    first: list[NewMerge] = []
    if num_tokens and lacks_characters(definition, vocabulary, corpus):
        whole = replace(rules, characters_only=True)
        first = _learn(definition, vocabulary, corpus, num_tokens, whole, limits, prepare)
        ids = range(vocabulary.num_ids, vocabulary.num_ids + num_tokens)
        definition = {**definition, "model": append_merges(definition["model"], first, ids)}
        vocabulary = Vocabulary.from_definition(definition)
    missing = num_tokens - sum(merge.is_new for merge in first)
    return first + _learn(definition, vocabulary, corpus, missing, rules, limits, prepare)


def _learn(
    definition: Definition,
    vocabulary: Vocabulary,
    corpus: Corpus,
    num_tokens: int,
    rules: Rules,
    limits: Limits,
    prepare: Prepare,
) -> list[NewMerge]:
    """One pass: count pairs, count runs, learn."""
    if not num_tokens:
        return []
    encode = Encode(definition, vocabulary, rules, prepare)
    with corpus.token_runs(encode, watching(corpus, "runs", limits)) as encoded:
        pairs = encoded.pairs(limits.max_memory // 2 // PAIR_BYTES)
        least = max(limits.min_frequency, pairs.lost + 1)
        frequency = max(least, _promising_frequency(pairs, num_tokens))
        while True:
            runs = encoded.runs(pairs, frequency, limits.max_memory // 2)
            merges = learn_merges(
                runs,
                vocabulary,
                num_tokens,
                rules,
                in_one_piece=whole_pieces(definition),
                show_progress=limits.shows_progress,
            )
            # All merges that are wanted are that frequent: they are those that all runs would have given.
            if sum(merge.is_new for merge in merges) == num_tokens or frequency == least:
                return merges
            frequency = max(least, frequency // 4)


def _promising_frequency(pairs: PairCounts, num_tokens: int) -> int:
    """A frequency that enough merges should have. Counting and learning take longer the lower it is."""
    wanted = max(1, int(PAIRS_PER_TOKEN * num_tokens))
    return int(np.partition(pairs.counts, -wanted)[-wanted]) if wanted < len(pairs.counts) else 0


def lacks_characters(definition: Definition, vocabulary: Vocabulary, corpus: Corpus) -> bool:
    """Whether a good part of the text is spelt in parts of characters."""
    tokenizer = tokenizer_of(definition)
    encodings = tokenizer.encode_batch_fast(list(corpus.pieces(PROBE_BYTES)), add_special_tokens=False)
    usage = np.bincount([i for e in encodings for i in e.ids], minlength=vocabulary.num_ids)
    parts = [t.id for t in vocabulary if t.text is None or (t.kind is TokenKind.BYTE and t.bytes[0] >= 0x80)]
    return bool(usage[parts].sum() > MISSING_CHARACTERS * usage.sum())


def with_progress(pieces: Iterator[str], corpus: Corpus, what: str, limits: Limits) -> Iterator[str]:
    """The pieces, with a bar that shows bytes and time left."""
    size = corpus.size
    if what == "words" and size and limits.words_from:
        size = min(size, limits.words_from)
    with progress(total=size, desc=f"Reading for {what}", unit="B", unit_scale=True, quiet=limits.quiet) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.encode("utf-8")))


def watching(corpus: Corpus, what: str, limits: Limits) -> Callable[[Iterator[str]], Iterator[str]]:
    """`with_progress` for pieces that the corpus itself will read."""
    return lambda pieces: with_progress(pieces, corpus, what, limits)
