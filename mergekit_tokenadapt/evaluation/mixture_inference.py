"""Infer the categories of text that a BPE tokenizer was trained on (Hayase, Liu et al. 2024, arXiv 2407.16607).

BPE training merges the most frequent pair at every step. Let ``a`` be the shares of the categories in the training
text. Then the pair that was merged at step t is at least as frequent in ``sum(a[k] * counts[k])`` as any other pair. A
linear programme finds the shares that violate this least (section 3 of the paper)::

    minimise    sum(v[t]) + sum(w[p])        over a, v, w >= 0, sum(a) = 1
    subject to  v[t] + w[p] + sum(a[k] * (count[t, k, m_t] - count[t, k, p])) >= 0   for all t, p

The counts are relative to the bytes of the category's sample. There are too many (t, p) to write them all down. The
programme is therefore solved with a few constraints; those that its solution violates most are added, until none is
violated.

Letters: K categories, P pairs, T merges, W distinct words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.texts.text_set import check_names
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

UNIT = 10_000
"""Counts are given per this many bytes, because the solver's tolerances (1e-7) suit numbers of that size."""
TOLERANCE = 1e-6
"""Counts that differ by less than this are treated as equal."""
PAIRS_PER_STEP = 10
"""Largest number of violated constraints that are added for one merge in one round."""
MAX_ROUNDS = 100
"""Largest number of times that the programme is solved."""

Pair = tuple[str, str]
"""Spellings of two neighbouring tokens."""


def infer_mixture(tokenizer: TokenizerFiles, samples: Sequence[TextSet], num_merges: int) -> dict[str, Any]:
    """Infer the share of each category in the bytes of the training text.

    Args:
        tokenizer: a BPE tokenizer with its merges in the order of training.
        samples: text of each category. Categories without a sample cannot be found. A few hundred kilobytes of each
            suffice for a thousand merges.
        num_merges: number of merges to use, from the first.

    Returns:
        `shares` by name; the number of `merges` used; the number of them that do not occur in the samples (`unseen`);
        and `violation`, the objective at the best shares (0 if all merges fit).

    Raises:
        TokenAdaptError: the tokenizer is not BPE, there are fewer than two categories, or no merge occurs in the
            samples.
    """
    check_samples(samples)
    merges = read_merges(tokenizer)[:num_merges]
    words = count_words(tokenizer.fast_tokenizer(), samples)
    history = replay(words, merges, np.array([sample.num_bytes for sample in samples], dtype=np.float64))
    for sample, has_pairs in zip(samples, history.has_pairs, strict=True):
        if not has_pairs:
            raise TokenAdaptError(
                f"the sample {sample.name} has no word of two characters or more, so merges say nothing about its share"
            )
    if not history.seen.any():
        raise TokenAdaptError(f"none of the first {len(merges)} merges of {tokenizer.name} occurs in the samples")
    shares, violation = solve(history)
    return {
        "shares": {sample.name: float(share) for sample, share in zip(samples, shares, strict=True)},
        "merges": len(merges),
        "unseen": int((~history.seen).sum()),
        "violation": violation,
    }


def check_samples(samples: Sequence[TextSet]) -> None:
    """Check that there are at least two categories, each with a name of its own.

    Raises:
        TokenAdaptError: there are fewer than two, or two have one name.
    """
    if len(samples) < 2:
        raise TokenAdaptError("a mixture has two or more categories: give --mixture NAME=PATH for each")
    check_names([sample.name for sample in samples])


def read_merges(tokenizer: TokenizerFiles) -> list[Pair]:
    """Return the merges in the order in which they were learned.

    Raises:
        TokenAdaptError: the tokenizer has no merges.
    """
    model = tokenizer.definition["model"]
    merges = model.get("merges") if model["type"] == "BPE" else None
    if not merges:
        raise TokenAdaptError(f"{tokenizer.name} is not a BPE tokenizer: it has no merges to infer a mixture from")
    return [_as_pair(merge) for merge in merges]


def _as_pair(merge: str | Sequence[str]) -> Pair:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def count_words(library: Tokenizer, samples: Sequence[TextSet]) -> Mapping[str, np.ndarray]:
    """Return word -> count in each sample, float64 [K]. Normalizer and pre-tokenizer divide the text into words."""
    counts: dict[str, np.ndarray] = {}
    for k, sample in enumerate(samples):
        for document in sample.documents:
            text = library.normalizer.normalize_str(document) if library.normalizer else document
            words = library.pre_tokenizer.pre_tokenize_str(text) if library.pre_tokenizer else [(text, (0, 0))]
            for word, _ in words:
                counts.setdefault(word, np.zeros(len(samples)))[k] += 1
    return counts


@dataclass(frozen=True, eq=False)
class History:
    """Counts of all pairs per `UNIT` bytes of each sample, before every merge."""

    initial: np.ndarray
    """float64 [P, K]: counts before the first merge. Pairs that appear only later have 0."""
    changes: list[tuple[np.ndarray, np.ndarray]]
    """For each merge: the pairs whose counts it changes, int64 [n], and their counts after it, float64 [n, K]."""
    merged: np.ndarray
    """int64 [T]: the pair that each step merges, or -1 if the samples do not have it."""

    @property
    def has_pairs(self) -> np.ndarray:
        """bool [K]: whether a sample has any pair."""
        counts_K: np.ndarray = self.initial.sum(axis=0) > 0
        return counts_K

    @property
    def seen(self) -> np.ndarray:
        """bool [T]: whether the merge occurs in the samples."""
        return self.merged >= 0


def replay(words: Mapping[str, np.ndarray], merges: Sequence[Pair], bytes_K: np.ndarray) -> History:
    """Apply the merges one after another, and record the changes of all pair counts."""
    spelled = [list(word) for word in words]
    counts_WK = np.stack(list(words.values())) * UNIT / bytes_K
    pair_id: dict[Pair, int] = {}
    places: list[set[int]] = []
    totals: list[np.ndarray] = []

    def add(word: int, sign: int, touched: set[int]) -> None:
        for pair in zip(spelled[word], spelled[word][1:], strict=False):
            p = pair_id.setdefault(pair, len(pair_id))
            if p == len(places):
                places.append(set())
                totals.append(np.zeros(len(bytes_K)))
            totals[p] = totals[p] + sign * counts_WK[word]
            places[p].add(word)
            touched.add(p)

    for word in range(len(spelled)):
        add(word, 1, set())
    initial, changes, merged = list(totals), [], []
    for pair in merges:
        p = pair_id.get(pair, -1)
        occurs = p >= 0 and bool((totals[p] > TOLERANCE).any())
        merged.append(p if occurs else -1)
        touched: set[int] = set()
        # Only words with the pair change. The set is sorted because additions of floats depend on their order.
        for word in sorted(places[p]) if occurs else ():
            add(word, -1, touched)
            spelled[word] = merge_symbols(spelled[word], pair)
            add(word, 1, touched)
        ids = np.array(sorted(touched), dtype=np.int64)
        changes.append((ids, np.stack([totals[i] for i in ids]) if len(ids) else np.zeros((0, len(bytes_K)))))
    initial_PK = np.zeros((len(totals), len(bytes_K)))
    initial_PK[: len(initial)] = np.array(initial).reshape(len(initial), len(bytes_K))
    return History(initial_PK, changes, np.array(merged, dtype=np.int64))


def merge_symbols(symbols: Sequence[str], pair: Pair) -> list[str]:
    """Join every occurrence of a pair, from left to right.

    >>> merge_symbols(["a", "a", "a", "b"], ("a", "a"))
    ['aa', 'a', 'b']
    """
    joined: list[str] = []
    n = 0
    while n < len(symbols):
        if tuple(symbols[n : n + 2]) == pair:
            joined.append(symbols[n] + symbols[n + 1])
            n += 2
        else:
            joined.append(symbols[n])
            n += 1
    return joined


class Constraint(NamedTuple):
    """One constraint ``v[step] + w[pair] + a . difference >= 0``."""

    step: int
    pair: int
    difference: np.ndarray
    """float64 [K]: count of the merged pair minus count of `pair`."""


def solve(history: History) -> tuple[np.ndarray, float]:
    """Return the shares, float64 [K], that violate the order of the merges least, and the remaining violation.

    Raises:
        TokenAdaptError: the solver fails, or violated constraints remain after `MAX_ROUNDS` rounds.
    """
    num_pairs, num_categories = history.initial.shape
    shares_K = np.full(num_categories, 1 / num_categories)
    slack_T, slack_P = np.zeros(len(history.merged)), np.zeros(num_pairs)
    constraints: dict[tuple[int, int], Constraint] = {}
    violation = 0.0
    for _ in range(MAX_ROUNDS):
        found = _violated(history, shares_K, slack_T, slack_P)
        new = {key: c for key, c in found.items() if key not in constraints}
        if not new:  # no violated constraint is missing, so this is the solution of the whole programme
            return shares_K, violation
        constraints |= new
        shares_K, slack_T, slack_P, violation = _solve_with(list(constraints.values()), history)
    raise TokenAdaptError(f"the mixture did not converge in {MAX_ROUNDS} rounds; use fewer merges (--merges)")


def _violated(
    history: History, shares_K: np.ndarray, slack_T: np.ndarray, slack_P: np.ndarray
) -> dict[tuple[int, int], Constraint]:
    """Return for each merge the constraints that these shares violate most: pairs that are more frequent than the
    merged one.
    """
    counts_PK = history.initial.copy()
    frequency_P = counts_PK @ shares_K - slack_P
    found = {}
    for step, chosen in enumerate(history.merged):
        if chosen >= 0:
            limit = counts_PK[chosen] @ shares_K + slack_T[step] + TOLERANCE
            above = np.flatnonzero(frequency_P > limit)
            worst = above[np.argsort(-frequency_P[above], kind="stable")][:PAIRS_PER_STEP]
            for pair in worst.tolist():
                if pair != chosen:
                    found[step, pair] = Constraint(step, pair, counts_PK[chosen] - counts_PK[pair])
        ids, after = history.changes[step]
        counts_PK[ids] = after
        frequency_P[ids] = after @ shares_K - slack_P[ids]
    return found


def _solve_with(
    constraints: Sequence[Constraint], history: History
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Solve the linear programme with these constraints. Returns shares [K], v [T], w [P] and the objective."""
    num_pairs, num_categories = history.initial.shape
    steps = sorted({c.step for c in constraints})
    pairs = sorted({c.pair for c in constraints})
    column_of_step = {step: num_categories + n for n, step in enumerate(steps)}
    column_of_pair = {pair: num_categories + len(steps) + n for n, pair in enumerate(pairs)}
    num_columns = num_categories + len(steps) + len(pairs)
    rows, columns, values = [], [], []
    for row, constraint in enumerate(constraints):
        rows += [row] * (num_categories + 2)
        columns += [*range(num_categories), column_of_step[constraint.step], column_of_pair[constraint.pair]]
        values += [*(-constraint.difference), -1.0, -1.0]
    objective = np.concatenate([np.zeros(num_categories), np.ones(num_columns - num_categories)])
    sum_to_one = np.concatenate([np.ones(num_categories), np.zeros(num_columns - num_categories)])[None]
    solution = linprog(
        objective,
        A_ub=coo_matrix((values, (rows, columns)), shape=(len(constraints), num_columns)).tocsr(),
        b_ub=np.zeros(len(constraints)),
        A_eq=sum_to_one,
        b_eq=[1.0],
        method="highs",
    )
    if not solution.success:
        raise TokenAdaptError(f"the mixture's linear programme cannot be solved: {solution.message}")
    slack_T, slack_P = np.zeros(len(history.merged)), np.zeros(num_pairs)
    slack_T[steps] = solution.x[num_categories : num_categories + len(steps)]
    slack_P[pairs] = solution.x[num_categories + len(steps) :]
    return solution.x[:num_categories], slack_T, slack_P, float(solution.fun)
