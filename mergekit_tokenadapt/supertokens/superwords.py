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
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.coarsening import coarsened
from mergekit_tokenadapt.supertokens.continuing import learn_all
from mergekit_tokenadapt.supertokens.counting import MAX_IDS, readable
from mergekit_tokenadapt.supertokens.learning import append_merges
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.reach import merged_spellings, pruned, tell_dropped
from mergekit_tokenadapt.supertokens.reading import with_progress
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.seams import seams
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.supertokens.word_patterns import byte_level_split, word_pattern
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


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
        num_special: number of special and added tokens.

    Raises:
        TokenAdaptError: `vocab_size` is smaller than that, or larger than `MAX_IDS`.
    """
    smallest = 256 + num_special
    if vocab_size > MAX_IDS:
        raise TokenAdaptError(f"a vocabulary of {vocab_size:,} tokens is too large: at most {MAX_IDS:,} can be learned")
    if vocab_size < smallest:
        raise TokenAdaptError(
            f"a vocabulary of {vocab_size} tokens is too small: 256 bytes and {num_special} special or added "
            f"tokens need {smallest}"
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
