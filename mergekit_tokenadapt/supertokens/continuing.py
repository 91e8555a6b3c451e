"""Learn merges that continue those of a tokenizer, from the text of a corpus.

Both `superwords` (its second phase) and `extend` do so. Runs of tokens are counted by frequency instead of keeping the
text ("Faster Superword Tokenization", arXiv 2604.05192).
"""

from __future__ import annotations

import numpy as np

from mergekit_tokenadapt.supertokens.counting import Encode, PairCounts, Prepare
from mergekit_tokenadapt.supertokens.learning import NewMerge, append_merges, learn_merges
from mergekit_tokenadapt.supertokens.options import Limits
from mergekit_tokenadapt.supertokens.reach import whole_pieces
from mergekit_tokenadapt.supertokens.reading import watching
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
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
