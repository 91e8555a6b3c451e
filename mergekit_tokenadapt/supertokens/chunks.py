"""The algorithm `chunks`: BPE on random chunks of text (TokenAdapt, arXiv 2505.09738, appendix A).

The text is divided into chunks of random lengths. BPE then merges within each chunk, so that a token may span words but
not more characters than a chunk has.

Two things differ from the paper's code. The probabilities of its chunk lengths add up to 1.10; `ChunkLengths` refuses
such a distribution. Chunks also end wherever the learned tokenizer's own pre-tokenizer ends a piece, so that the
tokenizer can produce every token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mergekit_tokenadapt.supertokens.chunk_lengths import ChunkLengths
from mergekit_tokenadapt.supertokens.coarsening import coarsened
from mergekit_tokenadapt.supertokens.counting import readable
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.reach import merged_spellings, whole_pieces
from mergekit_tokenadapt.supertokens.reading import with_progress
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.seams import seams
from mergekit_tokenadapt.supertokens.superwords import check_size
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.supertokens.word_patterns import byte_level_split, word_pattern
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

MARK = "\ufdd0"
"""Character between two chunks. Unicode reserves U+FDD0 for internal use, so that no text contains it."""


def train_chunks(
    corpus: Corpus,
    vocab_size: int,
    *,
    rules: Rules,
    limits: Limits,
    special_tokens: Iterable[str] = (),
    pre_tokenizer: Mapping[str, Any] | None = None,
    lengths: ChunkLengths | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn a new tokenizer from random chunks and return its definition (the content of ``tokenizer.json``).

    Args:
        corpus: the text. Its first ``limits.words_bytes`` bytes are read once, because the trainer holds every distinct
            chunk in memory.
        vocab_size: number of tokens, including special tokens and the 256 bytes.
        rules: which texts a token may have.
        limits: memory, minimum frequency and amount of text.
        special_tokens: tokens that get the first ids.
        pre_tokenizer: the word pre-tokenizer, as in ``tokenizer.json``; None takes `word_pattern`.
        lengths: the distribution of chunk lengths; None takes `bell_shaped`.
        seed: seed of the random chunk lengths.

    Raises:
        TokenAdaptError: an option is out of range, or there is no text.
    """
    special = list(special_tokens)
    check_size(vocab_size, len(special))
    words = pre_tokenizer or byte_level_split(word_pattern())
    definition = coarsened(json.loads(Tokenizer(models.BPE()).to_str()) | {"pre_tokenizer": words}, seams(rules))
    splitter, in_one_piece = Tokenizer.from_str(json.dumps(definition)).pre_tokenizer, whole_pieces(definition)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(MARK, "removed"), splitter])
    asked = vocab_size
    # Some learned tokens are removed afterwards, because only the finished token shows that it breaks a rule. Training
    # is repeated with a larger vocabulary until enough tokens remain, or the text has no more pairs to merge.
    while True:
        trainer = trainers.BpeTrainer(
            vocab_size=asked,
            min_frequency=limits.min_frequency,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=limits.shows_progress,
        )
        pieces = with_progress(corpus.pieces(limits.words_bytes), corpus, "words", limits)
        trained.train_from_iterator(chunked(readable(pieces), lengths or ChunkLengths(), seed), trainer)
        trained_definition = json.loads(trained.to_str())
        model = _without_refused(trained_definition, vocab_size, rules, in_one_piece)
        learned = len(trained_definition["model"]["vocab"])
        if len(model["vocab"]) == vocab_size or learned < asked:
            break
        asked += 2 * (vocab_size - len(model["vocab"])) + 1  # of further tokens, some will be refused as well
    added = trained_definition["added_tokens"]
    decoder = json.loads(decoders.ByteLevel().__getstate__())
    return {**definition, "added_tokens": added, "decoder": decoder, "model": model}


def chunked(pieces: Iterable[str], lengths: ChunkLengths, seed: int) -> Iterator[str]:
    """Yield each piece of text with `MARK` between chunks of random lengths."""
    generator = np.random.default_rng(seed)
    shortest = max(1, min(n for n, p in lengths.distribution.items() if p > 0))
    for piece in pieces:
        characters = np.frombuffer(piece.replace(MARK, "").encode("utf-32-le"), dtype="<u4")
        # Even if every length is the shortest, these draws reach the end of the piece.
        boundaries = np.cumsum(lengths.draw(len(characters) // shortest + 1, generator))
        marked = np.insert(characters, boundaries[boundaries < len(characters)], ord(MARK))
        yield marked.tobytes().decode("utf-32-le")


def _without_refused(
    definition: Mapping[str, Any], vocab_size: int, rules: Rules, in_one_piece: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the trained BPE model without tokens that break a rule or that the pre-tokenizer would split.

    Tokens that are merged from a removed token are removed, too. The remaining ids are renumbered without gaps.
    """
    vocabulary = Vocabulary.from_definition({**definition, "decoder": {"type": "ByteLevel"}})
    model = definition["model"]
    made = merged_spellings(definition)
    learned = [t for t in vocabulary if t.spelling in made]
    refused = {t.spelling for t in learned if not rules.accept(t.bytes) or not in_one_piece(t.text or "")}
    kept: dict[str, int] = {t.spelling: t.id for t in vocabulary if t.spelling not in made}
    merges = []
    for x, y in model["merges"]:
        if x in kept and y in kept and x + y not in refused and (x + y in kept or len(kept) < vocab_size):
            kept.setdefault(x + y, len(kept))
            merges.append([x, y])
    ids = {spelling: n for n, spelling in enumerate(sorted(kept, key=kept.__getitem__))}
    return {**model, "vocab": ids, "merges": merges}
