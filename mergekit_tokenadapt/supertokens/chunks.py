"""Random chunks: the trainer of the TokenAdapt paper (arXiv 2505.09738, appendix A), made to run.

Text is cut into chunks of random lengths, and BPE is learned inside the chunks, so that merges may reach
across words but not further than chance lets them. Differences from the paper's code: its distribution adds
up to 1.10, and is refused here; chunks are also cut where the result's own pre-tokenizer cuts, so that every
token can be produced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.counting import readable
from mergekit_tokenadapt.supertokens.pretokenizers import byte_level_split, coarsened, seams, word_pattern
from mergekit_tokenadapt.supertokens.reach import whole_pieces
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.superwords import Limits, check_size, with_progress
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

MARK = "\ufdd0"
"""Put between chunks. Unicode keeps it free for such uses: it is no character of any text."""
SHORTEST, LONGEST = 4, 23


def bell_shaped() -> dict[int, float]:
    """Lengths 4 to 23 with probabilities along a bell curve around their middle, adding up to 1."""
    lengths = np.arange(SHORTEST, LONGEST + 1)
    middle, spread = (SHORTEST + LONGEST) / 2, (LONGEST - SHORTEST) / 4
    weights = np.exp(-(((lengths - middle) / spread) ** 2) / 2)
    return dict(zip(lengths.tolist(), (weights / weights.sum()).tolist(), strict=True))


@dataclass(frozen=True)
class ChunkLengths:
    """How long chunks are, in characters: length to probability."""

    distribution: Mapping[int, float] = field(default_factory=bell_shaped)

    def __post_init__(self) -> None:
        total = sum(self.distribution.values())
        wrong = [n for n in self.distribution if n < 1]
        negative = [p for p in self.distribution.values() if not 0 <= p <= 1]
        if wrong or negative or not self.distribution:
            raise TokenAdaptError("chunk lengths are whole numbers from 1, with probabilities from 0 to 1")
        if abs(total - 1) > 1e-6:
            raise TokenAdaptError(f"the probabilities of the chunk lengths add up to {total:.4f}; they should make 1")

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """Random lengths, int64 [number]."""
        lengths = np.array(sorted(self.distribution), dtype=np.int64)
        weights = np.array([self.distribution[int(n)] for n in lengths])
        return generator.choice(lengths, size=number, p=weights / weights.sum())


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
    """A new tokenizer definition.

    Args:
        corpus: read once, up to ``limits.words_from``: the trainer holds every distinct chunk.
        vocab_size: tokens, with special ones and the 256 bytes.
        rules: what tokens may hold.
        limits: what learning may use up.
        special_tokens: get the first ids.
        pre_tokenizer: how words are cut; by `word_pattern` where there is none.
        lengths: of the chunks.
        seed: of the random cuts.

    Raises:
        TokenAdaptError: an option is out of range, or there is no text.
    """
    special = list(special_tokens)
    check_size(vocab_size, len(special))
    words = pre_tokenizer or byte_level_split(word_pattern())
    definition = coarsened(json.loads(Tokenizer(models.BPE()).to_str()) | {"pre_tokenizer": words}, seams(rules))
    cut, in_one_piece = Tokenizer.from_str(json.dumps(definition)).pre_tokenizer, whole_pieces(definition)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(MARK, "removed"), cut])
    asked = vocab_size
    while True:  # tokens that break a rule only as a whole go, and others take their place
        trainer = trainers.BpeTrainer(
            vocab_size=asked,
            min_frequency=limits.min_frequency,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=limits.shows_progress,
        )
        pieces = with_progress(corpus.pieces(limits.words_from), corpus, "words", limits)
        trained.train_from_iterator(chunked(readable(pieces), lengths or ChunkLengths(), seed), trainer)
        trained_definition = json.loads(trained.to_str())
        model = _kept(trained_definition, vocab_size, rules, in_one_piece)
        learned = len(trained_definition["model"]["vocab"])
        if len(model["vocab"]) == vocab_size or learned < asked:
            break
        asked += 2 * (vocab_size - len(model["vocab"])) + 1
    added = trained_definition["added_tokens"]
    decoder = json.loads(decoders.ByteLevel().__getstate__())
    return {**definition, "added_tokens": added, "decoder": decoder, "model": model}


def chunked(pieces: Iterable[str], lengths: ChunkLengths, seed: int) -> Iterator[str]:
    """The pieces with `MARK` between random chunks."""
    generator = np.random.default_rng(seed)
    shortest = max(1, min(n for n, p in lengths.distribution.items() if p > 0))
    for piece in pieces:
        characters = np.frombuffer(piece.replace(MARK, "").encode("utf-32-le"), dtype="<u4")
        cuts = np.cumsum(lengths.draw(len(characters) // shortest + 1, generator))
        marked = np.insert(characters, cuts[cuts < len(characters)], ord(MARK))
        yield marked.tobytes().decode("utf-32-le")


def _kept(
    definition: Mapping[str, Any], vocab_size: int, rules: Rules, in_one_piece: Callable[[str], bool]
) -> dict[str, Any]:
    """The trained model without tokens that break a rule or would be cut, and what is made of them, ids closed up."""
    vocabulary = Vocabulary.from_definition({**definition, "decoder": {"type": "ByteLevel"}})
    model = definition["model"]
    made = {x + y for x, y in model["merges"]}
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
