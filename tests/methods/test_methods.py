"""The methods against slow, plain implementations of their equations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from operator import mul
from typing import Any

import pytest
import torch
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_transfer, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import Method, find_method
from mergekit_tokenadapt.methods.local import segment_softmax
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.transfer import Transfer

Weights = dict[int, float]
"""Old id -> weight: one row."""

SOME_PAIRS = [
    ("byte-level", "sentencepiece-bpe"),
    ("gemma-style", "byte-level"),
    ("sentencepiece-bpe", "wordpiece"),
    ("unigram", "gemma-style"),
    ("wordpiece", "unigram"),
]
some_pairs = pytest.mark.parametrize(("base", "target"), SOME_PAIRS, ids=["->".join(pair) for pair in SOME_PAIRS])


# --- the equations, plain ------------------------------------------------------------------------


def phi(space: RandomSpace, token: Token) -> list[float]:
    known = vars(space).setdefault("phi", {})
    if token.label not in known:
        vector = space.vector(token.label)
        norm = math.sqrt(sum(x * x for x in vector))
        known[token.label] = [x / norm for x in vector] if norm else vector
    return known[token.label]


def dot(left: list[float], right: list[float]) -> float:
    return sum(map(mul, left, right))


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [e / sum(exponentials) for e in exponentials]


def characters(token: Token) -> int:
    return len(token.bytes.decode("utf-8", errors="replace"))


def plain_local(transfer: Transfer, space: RandomSpace, new: Token, pieces: list[int], tau: float) -> Weights:
    tokens = [transfer.base.vocabulary.by_id[i] for i in pieces]
    u = softmax([dot(phi(space, new), phi(space, piece)) for piece in tokens]) if tokens else []
    lengths = [characters(piece) / max(1, characters(new)) for piece in tokens]
    c = [(u_j + l_j) / 2 for u_j, l_j in zip(u, lengths, strict=True)]
    row: Weights = defaultdict(float)
    for piece, weight in zip(pieces, softmax([c_j / tau for c_j in c]) if c else [], strict=True):
        row[piece] += weight
    return dict(row)


def plain_global(transfer: Transfer, space: RandomSpace, new: Token, tau: float, k: int, threshold: float) -> Weights:
    if not any(phi(space, new)):
        return {}
    candidates = [t for t in transfer.base.vocabulary if t.kind is not TokenKind.SPECIAL and t.id < transfer.base_rows]
    known = [t for t in candidates if any(phi(space, t))]
    ranked = sorted(((dot(phi(space, new), phi(space, t)), t.id) for t in known), reverse=True)[:k]
    kept = [(a, i) for a, i in ranked if a >= threshold]
    weights = softmax([a / tau for a, _ in kept]) if kept else []
    return {i: weight for (_, i), weight in zip(kept, weights, strict=True)}


def plain_hybrid(local: Weights, nearest: Weights, share: float) -> Weights:
    if not local or not nearest:
        return local or nearest
    return {i: (1 - share) * local.get(i, 0) + share * nearest.get(i, 0) for i in {*local, *nearest}}


def by_label(transfer: Transfer, row: Weights) -> dict[str, float]:
    """Two tokens of the same text (``a``, ``<0x61>``) are equally near: either may be the neighbour."""
    summed: dict[str, float] = defaultdict(float)
    for token_id, weight in row.items():
        summed[transfer.base.vocabulary.by_id[token_id].label] += weight
    return {label: weight for label, weight in summed.items() if weight > 1e-9}


def rows_of(composition: SparseRows) -> list[Weights]:
    rows: list[Weights] = [{} for _ in range(len(composition))]
    for row, token_id, weight in zip(
        composition.rows.tolist(), composition.ids.tolist(), composition.weights.tolist(), strict=True
    ):
        assert token_id not in rows[row], "a base token is listed once"
        rows[row][token_id] = weight
    return rows


def check_rows(transfer: Transfer, made: SparseRows, expected: Callable[[int, Token], Weights]) -> None:
    assert len(made) == len(transfer.new_tokens)
    rows = rows_of(made)
    checked = 0
    for n in range(len(rows)):
        wanted = by_label(transfer, expected(n, transfer.new_tokens[n]))
        assert by_label(transfer, rows[n]) == pytest.approx(wanted, abs=1e-5), transfer.new_tokens[n]
        checked += bool(wanted)
    assert checked > 10


def check_sums(composition: SparseRows) -> None:
    for row in rows_of(composition):
        if row:
            assert sum(row.values()) == pytest.approx(1, abs=1e-5)
            assert all(0 <= weight <= 1 + 1e-6 for weight in row.values())


# --- against them --------------------------------------------------------------------------------


@some_pairs
def test_mean_gives_every_piece_the_same_weight(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo[base], zoo[target])
    made = find_method("mean", {}).weigh(transfer)

    def expected(n: int, new: Token) -> Weights:
        pieces = transfer.pieces[n].tolist()
        return {piece: pieces.count(piece) / len(pieces) for piece in pieces}

    assert [*map(dict, rows_of(made))] == [pytest.approx(expected(n, t)) for n, t in enumerate(transfer.new_tokens)]
    check_sums(made)


@some_pairs
@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_local_follows_its_equations(base: str, target: str, tau: float, zoo: Mapping[str, TokenizerFiles]) -> None:
    space = RandomSpace(seed=1)
    transfer = make_transfer(zoo[base], zoo[target], space)
    made = find_method("local", {"temperature": tau}).weigh(transfer)
    pieces = transfer.pieces
    check_rows(transfer, made, lambda n, new: plain_local(transfer, space, new, pieces[n].tolist(), tau))
    rows = rows_of(made)  # ids exactly: no neighbours are searched here
    assert [set(row) for row in rows] == [set(pieces[n].tolist()) for n in range(len(pieces))]
    check_sums(made)


@some_pairs
@pytest.mark.parametrize(("tau", "k", "threshold"), [(0.3, 3, 0.0), (1.0, 1, -1.0), (0.3, 10, 0.5)])
def test_global_follows_its_equations(
    base: str, target: str, tau: float, k: int, threshold: float, zoo: Mapping[str, TokenizerFiles]
) -> None:
    space = RandomSpace(seed=2)
    transfer = make_transfer(zoo[base], zoo[target], space)
    made = find_method("global", {"temperature": tau, "top_k": k, "threshold": threshold}).weigh(transfer)
    check_rows(transfer, made, lambda n, new: plain_global(transfer, space, new, tau, k, threshold))
    check_sums(made)


@some_pairs
def test_hybrid_follows_its_equations(base: str, target: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    space = RandomSpace(seed=3)
    transfer = make_transfer(zoo[base], zoo[target], space)
    options = {"temperature": 0.4, "top_k": 4, "global_weight": 0.3, "threshold": 0.6}
    made = find_method("hybrid", options).weigh(transfer)
    pieces = transfer.pieces

    def expected(n: int, new: Token) -> Weights:
        local = plain_local(transfer, space, new, pieces[n].tolist(), 0.4)
        return plain_hybrid(local, plain_global(transfer, space, new, 0.4, 4, 0.6), 0.3)

    check_rows(transfer, made, expected)
    check_sums(made)


def test_the_defaults_are_the_papers() -> None:
    assert find_method("hybrid", {}).model_dump() == {
        "temperature": 0.3,
        "top_k": 3,
        "global_weight": 0.3,
        "threshold": 0.0,
    }
    assert find_method("local", {}).model_dump() == {"temperature": 0.3}
    assert find_method("global", {}).model_dump() == {"temperature": 0.3, "top_k": 3, "threshold": 0.0}


def test_a_worked_example_of_the_local_estimate() -> None:
    """By hand: pieces "ab" and "c" of "abc", similarities 1 and 0, temperature 1/2."""

    class Known(RandomSpace):
        def vector(self, text: str) -> list[float]:
            return {"abc": [2.0, 0.0], "ab": [5.0, 0.0], "c": [0.0, 1.0]}.get(text, [1.0, 1.0])

    definition = plain_definition(["a", "b", "c", "ab"], decoder=BYTE_LEVEL, merges=[["a", "b"]])
    transfer = make_transfer(
        (definition, Vocabulary.from_definition(definition)),
        Vocabulary.from_definition(plain_definition(["abc"], decoder=BYTE_LEVEL)),
        Known(),
    )
    u = math.e / (math.e + 1)
    first, second = ((u + 2 / 3) / 2) / 0.5, ((1 - u + 1 / 3) / 2) / 0.5
    weight = 1 / (1 + math.exp(second - first))
    (row,) = rows_of(find_method("local", {"temperature": 0.5}).weigh(transfer))
    assert row == pytest.approx({3: weight, 2: 1 - weight}, abs=1e-6)


# --- edges ---------------------------------------------------------------------------------------


@pytest.fixture
def transfer(zoo: Mapping[str, TokenizerFiles]) -> Transfer:
    return make_transfer(zoo["unigram"], zoo["byte-level"], RandomSpace(seed=4))


def test_a_high_threshold_leaves_nothing(transfer: Transfer) -> None:
    made = find_method("global", {"threshold": 1.0}).weigh(transfer)
    assert made.counts.tolist() == [0] * len(transfer.new_tokens)


def test_neighbours_at_the_threshold_are_kept() -> None:
    """Similarities 1, 0 and -1: `a_i < threshold` is left out, equality is not."""

    class Axes(RandomSpace):
        def vector(self, text: str) -> list[float]:
            return {"x": [1.0, 0.0], "a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}[text]

    definition = plain_definition(["a", "b", "c"], decoder=BYTE_LEVEL)
    target = Vocabulary.from_definition(plain_definition(["x"], decoder=BYTE_LEVEL))
    transfer = make_transfer((definition, Vocabulary.from_definition(definition)), target, Axes())
    for threshold, kept in [(-1.0, {0, 1, 2}), (-0.5, {0, 1}), (0.0, {0, 1}), (0.5, {0}), (1.0, {0})]:
        made = find_method("global", {"threshold": threshold, "top_k": 3}).weigh(transfer)
        assert set(rows_of(made)[0]) == kept, threshold
        check_sums(made)


def test_top_k_may_be_larger_than_the_vocabulary(transfer: Transfer) -> None:
    made = find_method("global", {"top_k": 10**6, "threshold": -1.0}).weigh(transfer)
    assert set(made.counts.tolist()) == {len(transfer.candidates)}
    check_sums(made)


def test_no_special_token_is_ever_used(transfer: Transfer) -> None:
    special = set(transfer.base.vocabulary.ids(TokenKind.SPECIAL).tolist())
    options = {"hybrid": {"top_k": 10**6, "threshold": -1.0}, "mean": {}}
    for name, given in options.items():
        made = find_method(name, given).weigh(transfer)
        assert not special & set(made.ids.tolist())


def test_tokens_without_a_row_are_no_neighbours(zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["unigram"], RandomSpace(seed=5), base_rows=400)
    for name in ("mean", "local", "global", "hybrid"):
        assert int(find_method(name, {}).weigh(transfer).ids.max()) < 400


@pytest.mark.parametrize(("share", "same"), [(0.0, "local"), (1.0, "global")])
def test_global_weight_zero_and_one_are_one_estimate_alone(
    share: float, same: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    transfer = make_transfer(zoo["gemma-style"], zoo["byte-level"], RandomSpace(seed=6))
    hybrid = find_method("hybrid", {"global_weight": share, "threshold": -1.0}).weigh(transfer)
    alone = find_method(same, {} if same == "local" else {"threshold": -1.0}).weigh(transfer)
    assert min(alone.counts.tolist()) > 0, "or the other would step in"
    assert [by_label(transfer, row) for row in rows_of(hybrid)] == [
        pytest.approx(by_label(transfer, row), abs=1e-6) for row in rows_of(alone)
    ]


def test_where_one_estimate_is_empty_the_other_stands_alone(transfer: Transfer) -> None:
    """Unigram cannot segment every token into pieces; the threshold leaves some without neighbours."""
    local = rows_of(find_method("local", {}).weigh(transfer))
    nearest = rows_of(find_method("global", {"threshold": 0.75}).weigh(transfer))
    hybrid = rows_of(find_method("hybrid", {"threshold": 0.75, "global_weight": 0.9}).weigh(transfer))
    kinds = {(bool(one), bool(other)) for one, other in zip(local, nearest, strict=True)}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    for one, other, both in zip(local, nearest, hybrid, strict=True):
        if not one or not other:
            assert both == pytest.approx(one or other, abs=1e-6)


def test_zero_vectors_have_no_neighbours_and_are_none(zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["sentencepiece-bpe"], zoo["byte-level"]
    labels = sorted({t.label for t in make_transfer(base, target).new_tokens} | {t.label for t in base.vocabulary})
    unknown = set(labels[::3])
    transfer = make_transfer(base, target, RandomSpace(seed=7, unknown=unknown))
    made = rows_of(find_method("global", {"threshold": -1.0, "top_k": 400}).weigh(transfer))
    known = [t for t in transfer.candidates if t.label not in unknown]
    for new, row in zip(transfer.new_tokens, made, strict=True):
        assert bool(row) == (new.label not in unknown)
        assert not any(transfer.base.vocabulary.by_id[i].label in unknown for i in row)
        assert len(row) in (0, min(400, len(known)))


def test_zero_vectors_leave_the_local_estimate_its_lengths(zoo: Mapping[str, TokenizerFiles]) -> None:
    class Nothing(RandomSpace):
        def vector(self, text: str) -> list[float]:
            return [0.0, 0.0]

    space = Nothing()
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"], space)
    made = find_method("local", {}).weigh(transfer)
    assert not made.weights.isnan().any()
    pieces = transfer.pieces
    check_rows(transfer, made, lambda n, new: plain_local(transfer, space, new, pieces[n].tolist(), 0.3))


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e6])
def test_extreme_temperatures_give_numbers(temperature: float, transfer: Transfer) -> None:
    for name in ("local", "global", "hybrid"):
        made = find_method(name, {"temperature": temperature}).weigh(transfer)
        assert made.weights.isfinite().all()
        check_sums(made)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_do_not_change_the_neighbours(block: int, transfer: Transfer) -> None:
    similarities, ids = transfer.neighbours(5)
    in_blocks, ids_in_blocks = transfer.neighbours(5, block=block)
    assert len(similarities) > 2 * 100
    torch.testing.assert_close(in_blocks, similarities)
    labels = [[transfer.base.vocabulary.by_id[i].label for i in row] for row in ids.tolist()]
    assert [[transfer.base.vocabulary.by_id[i].label for i in row] for row in ids_in_blocks.tolist()] == labels


def test_neighbours_come_most_similar_first(transfer: Transfer) -> None:
    similarities, ids = transfer.neighbours(4)
    assert similarities.shape == ids.shape == (len(transfer.new_tokens), 4)
    assert (similarities.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", ["mean", "local", "global", "hybrid"])
def test_methods_are_deterministic(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    one, other = (
        find_method(name, {}).weigh(make_transfer(zoo["gemma-style"], zoo["wordpiece"], RandomSpace(seed=8)))
        for _ in range(2)
    )
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.weights, other.weights)


def test_special_tokens_are_not_among_the_new_ones(zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"])
    assert all(t.kind is not TokenKind.SPECIAL for t in transfer.new_tokens)
    assert transfer.new_ids.tolist() == [t.id for t in transfer.new_tokens]
    assert transfer.mapping.reasons[transfer.target.vocabulary.by_spelling["<start_of_turn>"].id] == 2


def test_segment_softmax_is_a_softmax_for_each_segment() -> None:
    values = torch.tensor([1.0, -3.0, 1000.0, 999.0, 5.0])
    made = segment_softmax(values, torch.tensor([2, 0, 1, 1, 2]), 4)
    expected = [1 / (1 + math.exp(4)), 1.0, 1 / (1 + math.exp(-1)), 1 / (1 + math.e), 1 / (1 + math.exp(-4))]
    assert made.tolist() == pytest.approx(expected, abs=1e-6)


# --- names and options ---------------------------------------------------------------------------


def test_an_unknown_method_names_the_installed_ones() -> None:
    with pytest.raises(
        TokenAdaptError, match=r"unknown method 'hybird'; installed: .*global, .*hybrid, .*local, .*mean"
    ):
        find_method("hybird", {})


def test_an_unknown_option_names_itself_and_the_known_ones() -> None:
    with pytest.raises(TokenAdaptError, match=r"method 'hybrid': unknown option 'topk'.*temperature, top_k, global_we"):
        find_method("hybrid", {"topk": 3})
    with pytest.raises(TokenAdaptError, match=r"method 'mean': unknown option 'temperature'"):
        find_method("mean", {"temperature": 0.3})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("hybrid", "temperature", 0),
        ("hybrid", "temperature", -0.3),
        ("hybrid", "temperature", "warm"),
        ("local", "temperature", 0),
        ("global", "top_k", 0),
        ("hybrid", "top_k", 2.5),
        ("hybrid", "global_weight", 1.1),
        ("hybrid", "global_weight", -0.1),
        ("global", "threshold", 1.5),
        ("hybrid", "threshold", -2),
        ("hybrid", "top_k", None),
    ],
)
def test_a_value_out_of_range_names_its_key_and_itself(name: str, key: str, value: Any) -> None:
    with pytest.raises(TokenAdaptError, match=f"method '{name}': {key}: .*not {value!r}"):
        find_method(name, {key: value})


@pytest.mark.parametrize("key", ["temperature", "global_weight", "threshold"])
def test_nan_is_refused(key: str) -> None:
    with pytest.raises(TokenAdaptError, match=f"{key}: "):
        find_method("hybrid", {key: float("nan")})


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(TokenAdaptError, match=r"top_k.*; .*global_weight") as caught:
        find_method("hybrid", {"top_k": 0, "global_weight": 2})
    assert "\n" not in str(caught.value)


def test_methods_say_whether_they_need_an_auxiliary_space() -> None:
    needs = {name: type(find_method(name, {})).needs_auxiliary for name in ("mean", "local", "global", "hybrid")}
    assert needs == {"mean": False, "local": True, "global": True, "hybrid": True}


def test_methods_cannot_be_changed() -> None:
    method: Method = find_method("hybrid", {})
    with pytest.raises(ValueError, match="frozen"):
        method.temperature = 1.0  # type: ignore[attr-defined]
