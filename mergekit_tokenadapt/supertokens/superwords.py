"""The algorithm `superwords`: learn words first, then merges across word boundaries.

SuperBPE (arXiv 2503.13423) runs BPE with an ordinary pre-tokenizer up to a share of the vocabulary, and goes on without
the pre-tokenizer. Here the second phase counts runs of tokens by frequency instead of keeping the text ("Faster
Superword Tokenization", arXiv 2604.05192).

Two things differ from the papers. The second phase keeps those word boundaries that the rules forbid to cross. They are
part of the result's own pre-tokenizer, so that training and later use split text alike. Both phases run in the trainer
of `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.counting import MAX_IDS, Encode, PairCounts, Prepare, readable
from mergekit_tokenadapt.supertokens.learning import NewMerge, append_merges, learn_merges
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.pretokenizers import byte_level_split, coarsened, seams, word_pattern
from mergekit_tokenadapt.supertokens.reach import merged_spellings, pruned, tell_dropped, whole_pieces
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, TokenKind, Vocabulary

PAIR_BYTES = 64
"""Memory of one counted pair while counts are added up, in bytes."""


PAIRS_PER_TOKEN = 2
"""Number of most frequent pairs per wanted token that are used first to build runs."""
PROBE_BYTES = 1_000_000
"""Size of the text that is examined for missing characters, in bytes."""
MISSING_CHARACTERS = 0.01
"""Share of a text's tokens that are parts of characters above which whole characters are learned first."""


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
    """Learn a new tokenizer with merges across words, and return its definition (the content of ``tokenizer.json``).

    Args:
        corpus: the text. It is read twice.
        vocab_size: number of tokens, including special tokens and the 256 bytes.
        rules: which texts a token may have.
        limits: memory, minimum frequency and amount of text.
        special_tokens: tokens that get the first ids.
        pre_tokenizer: the word pre-tokenizer, as in ``tokenizer.json``; None takes `word_pattern`.
        word_share: share of the vocabulary that is learned within words, more than 0 and at most 1.

    Raises:
        TokenAdaptError: an option is out of range, or there is no text.
    """
    if not 0 < word_share <= 1:
        raise TokenAdaptError(f"word share is {word_share}; it has to be more than 0 and at most 1")
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
    """Check the size of a new vocabulary, and return the smallest size that is possible.

    Args:
        vocab_size: number of tokens, including special tokens and the 256 bytes.
        num_special: number of special tokens.

    Raises:
        TokenAdaptError: `vocab_size` is smaller than that, or larger than `MAX_IDS`.
    """
    smallest = 256 + num_special
    if vocab_size > MAX_IDS:
        raise TokenAdaptError(f"a vocabulary of {vocab_size:,} tokens is too large: at most {MAX_IDS:,} can be learned")
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
    """Train plain byte-level BPE: the first phase of `superwords`, and the usual baseline for its results.

    The trainer applies no rule except ``max_characters``, which it takes as a number of bytes. Characters of several
    bytes may therefore be completed only in the second phase.
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
    pieces = corpus.pieces(limits.words_bytes)
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
    """Learn merges that continue those of a tokenizer, across words where its pre-tokenizer allows it.

    If many of the text's tokens are parts of characters, whole characters are learned first. The rules on letters and
    scripts can be checked only on whole characters.

    Args:
        definition: the tokenizer, with the pre-tokenizer that the result will have.
        vocabulary: its tokens.
        corpus: the text. It is read once, and twice if characters are learned.
        num_tokens: number of new tokens.
        rules: which texts a new token may have.
        limits: memory, minimum frequency and amount of text.
        prepare: a function that changes the pieces of text right before they are encoded.
    """
    first: list[NewMerge] = []
    if num_tokens and lacks_characters(definition, vocabulary, corpus):
        whole = rules.model_copy(update={"characters_only": True})
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
    """Learn merges in one pass: count pairs, count runs, train.

    Counting and training are slow where rare runs are included. The first attempt therefore uses only pairs that look
    frequent enough for `num_tokens` merges. If they give too few, the limit is lowered.
    """
    if not num_tokens:
        return []
    encode = Encode(definition, vocabulary, rules, prepare)
    with corpus.token_runs(encode, watching(corpus, "runs", limits)) as encoded:
        pairs = encoded.pairs(limits.memory_bytes // 2 // PAIR_BYTES)
        least = max(limits.min_frequency, pairs.lost + 1)
        frequency = max(least, _promising_frequency(pairs, num_tokens))
        while True:
            runs = encoded.runs(pairs, frequency, limits.memory_bytes // 2)
            merges = learn_merges(
                runs,
                vocabulary,
                num_tokens,
                rules,
                in_one_piece=whole_pieces(definition),
                show_progress=limits.shows_progress,
            )
            # If all wanted merges are at least this frequent, then rarer runs would not have changed any of them.
            if sum(merge.is_new for merge in merges) == num_tokens or frequency == least:
                return merges
            frequency = max(least, frequency // 4)


def _promising_frequency(pairs: PairCounts, num_tokens: int) -> int:
    """Guess a frequency that enough merges reach. Lower frequencies make counting and training slower."""
    wanted = max(1, int(PAIRS_PER_TOKEN * num_tokens))
    return int(np.partition(pairs.counts, -wanted)[-wanted]) if wanted < len(pairs.counts) else 0


def lacks_characters(definition: Definition, vocabulary: Vocabulary, corpus: Corpus) -> bool:
    """Return whether more than `MISSING_CHARACTERS` of a text's tokens are parts of characters."""
    tokenizer = tokenizer_of(definition)
    encodings = tokenizer.encode_batch_fast(list(corpus.pieces(PROBE_BYTES)), add_special_tokens=False)
    usage = np.bincount([i for e in encodings for i in e.ids], minlength=vocabulary.num_ids)
    parts = [t.id for t in vocabulary if t.text is None or (t.kind is TokenKind.BYTE and t.bytes[0] >= 0x80)]
    return bool(usage[parts].sum() > MISSING_CHARACTERS * usage.sum())


def with_progress(pieces: Iterator[str], corpus: Corpus, what: str, limits: Limits) -> Iterator[str]:
    """Yield the pieces while a progress bar shows the bytes read and the time left."""
    size = corpus.size
    if what == "words" and size and limits.words_bytes:
        size = min(size, limits.words_bytes)
    with progress(total=size, desc=f"Reading for {what}", unit="B", unit_scale=True, quiet=limits.quiet) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.encode("utf-8")))


def watching(corpus: Corpus, what: str, limits: Limits) -> Callable[[Iterator[str]], Iterator[str]]:
    """Return `with_progress` as a function of the pieces, for a corpus that reads them itself."""
    return lambda pieces: with_progress(pieces, corpus, what, limits)
