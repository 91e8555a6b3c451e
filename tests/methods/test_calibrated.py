"""The method `calibrated`, and the maps it fits."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers_zoo
import torch
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, added, make_problem, plain_definition
from torch import Tensor
from transplanting import EMBEDDINGS, HEAD, tensors_of, transplant

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.auxiliary.ngram import NgramSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import calibrated, find_method
from mergekit_tokenadapt.numerics import principal_directions
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer import row_regression as regression_module
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.piece_weights import uniform
from mergekit_tokenadapt.transfer.plan import TransferPlan, make_plan
from mergekit_tokenadapt.transfer.problem import TransferProblem
from mergekit_tokenadapt.transfer.row_regression import PieceFeatures, RowRegression

ATOMS, EXAMPLES, NEW, WIDTH = 150, 900, 60, 8
"""Of the worlds made by hand."""


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan_of(problem: TransferProblem, name: str = "calibrated", **options: int) -> TransferPlan:
    return make_plan(problem, name, find_method(name, options))


def plan_between(
    base: TokenizerFiles, target: TokenizerFiles, space: AuxiliarySpace | None = None, **given: int
) -> TransferPlan:
    return plan_of(make_problem(base, target, space or RandomSpace(seed=1), **given))


def regression_of(plan: TransferPlan) -> RowRegression:
    assert plan.regression is not None
    return plan.regression


def pieces_of(features: PieceFeatures) -> list[list[int]]:
    return [part.tolist() for part in features.pieces.ids.split(features.pieces.counts.tolist())]


# --- planted worlds: rows that are known functions of their pieces -------------------------------


class Formula:
    """A row is A mean + B first + C last + constant."""

    def __init__(self, seed: int, width: int = WIDTH) -> None:
        self.a, self.b, self.c = random_tensor(3, width, width, seed=seed) * 0.4 / width**0.5
        self.constant = random_tensor(width, seed=seed + 100)

    def __call__(self, matrix: Tensor, pieces: list[int]) -> Tensor:
        rows = matrix[pieces]
        return rows.mean(0) @ self.a + rows[0] @ self.b + rows[-1] @ self.c + self.constant


def features_by_hand(number: int, seed: int) -> PieceFeatures:
    """Two to six atoms each; neighbours that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 7, (number,), generator=generator)
    ids = torch.randint(0, ATOMS, (int(counts.sum()),), generator=generator)
    weights = (1 / counts.float()).repeat_interleave(counts)
    indptr = torch.cat([torch.zeros(1).long(), counts.cumsum(0)])
    neighbours = torch.randint(0, ATOMS, (number, 4), generator=generator).int()
    similarities = torch.rand(number, 4, generator=generator).sort(dim=1, descending=True).values
    scalars = torch.rand(number, 3, generator=generator).round()
    return PieceFeatures(SparseRows(indptr, ids, weights), neighbours, similarities, scalars)


def world_by_hand(examples: int = EXAMPLES, new: int = NEW) -> RowRegression:
    """The first rows are atoms, those after them are the examples'."""
    is_held_out = torch.arange(examples) % 10 == 3
    example_ids = ATOMS + torch.arange(examples)
    return RowRegression(
        example_ids, is_held_out, features_by_hand(examples, 1), torch.arange(new), features_by_hand(new, 2)
    )


def planted_by_hand(regression: RowRegression, formula: Formula, atoms: Tensor) -> Tensor:
    rows = [formula(atoms, pieces) for pieces in pieces_of(regression.examples)]
    return torch.cat([atoms, torch.stack(rows)])


def planted(plan: TransferPlan, formula: Formula, num_rows: int, seed: int, width: int = WIDTH) -> Tensor:
    """A matrix in which the examples of a plan follow the formula, smallest pieces first."""
    matrix = random_tensor(num_rows, width, seed=seed)
    features = regression_of(plan)
    pieces = dict(zip(features.example_ids.tolist(), pieces_of(features.examples), strict=True))
    done: set[int] = set()

    def fill(token_id: int) -> None:
        if token_id in pieces and token_id not in done:
            for piece in pieces[token_id]:
                fill(piece)
            matrix[token_id] = formula(matrix, pieces[token_id])
            done.add(token_id)

    for token_id in pieces:
        fill(token_id)
    return matrix


def all_usable(matrix: Tensor) -> Tensor:
    return torch.ones(len(matrix), dtype=torch.bool)


def relative_error(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


def test_a_planted_composition_is_recovered() -> None:
    world, formula = world_by_hand(), Formula(seed=3)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=4))
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    made, report = fitted
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    assert relative_error(made, expected) < 1e-3
    assert report.explained > 0.999
    assert report.penalty == min(regression_module.PENALTIES)
    assert (report.examples, report.held_out) == (EXAMPLES, EXAMPLES // 10)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as it is", "backwards"])
def test_first_and_last_piece_are_told_apart(order: slice) -> None:
    """Were the pieces sorted or swapped, a row that is its first piece could not be predicted."""
    world = world_by_hand()
    atoms = random_tensor(ATOMS, WIDTH, seed=5)
    matrix = torch.cat([atoms, torch.stack([atoms[pieces[order][0]] for pieces in pieces_of(world.examples)])])
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    expected = torch.stack([atoms[pieces[order][0]] for pieces in pieces_of(world.new)])
    assert relative_error(fitted[0], expected) < 1e-3


@pytest.mark.parametrize("place", [0, 3])
def test_a_row_that_is_a_neighbours_is_predicted_from_the_nearest_one(place: int) -> None:
    world = world_by_hand()
    atoms = random_tensor(ATOMS, WIDTH, seed=6)
    matrix = torch.cat([atoms, atoms[world.examples.neighbours[:, place].long()]])
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    error = relative_error(fitted[0], atoms[world.new.neighbours[:, place].long()])
    assert (error < 1e-3) == (place == 0)


def test_noise_is_not_believed() -> None:
    world = world_by_hand(examples=2000)
    matrix = random_tensor(ATOMS + 2000, WIDTH, seed=7) + 5
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    made, report = fitted
    assert report.penalty >= 1
    assert -0.1 < report.explained < 0.1
    mean = matrix[ATOMS:].mean(0)
    spread = matrix[ATOMS:].std()
    assert float((made - mean).square().mean().sqrt()) < 0.2 * spread


def test_half_noise_is_half_explained() -> None:
    world, formula = world_by_hand(), Formula(seed=8)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=9))
    signal = (matrix[ATOMS:] - matrix[ATOMS:].mean(0)).square().mean().sqrt()
    matrix[ATOMS:] += signal * random_tensor(EXAMPLES, WIDTH, seed=10)
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    assert 0.35 < fitted[1].explained < 0.6


def test_what_is_explained_is_measured_on_examples_that_were_not_fitted() -> None:
    """With fewer examples than columns, those that were fitted would be explained entirely."""
    world = world_by_hand(examples=60)
    matrix = random_tensor(ATOMS + 60, WIDTH, seed=11)
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    assert fitted[1].explained < 0.2


@pytest.mark.parametrize("chunk", [1, 7, 899])
def test_chunks_do_not_change_the_predictions(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world, formula = world_by_hand(examples=200), Formula(seed=12)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=13))
    matrix += 0.3 * random_tensor(*matrix.shape, seed=14)
    whole = world.apply(matrix, all_usable(matrix))
    monkeypatch.setattr(regression_module, "CHUNK", chunk)
    parts = world.apply(matrix, all_usable(matrix))
    assert whole is not None
    assert parts is not None
    torch.testing.assert_close(parts[0], whole[0], atol=1e-4, rtol=1e-4)
    assert parts[1].explained == pytest.approx(whole[1].explained, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_a_matrix_does_not_matter(scale: float) -> None:
    world, formula = world_by_hand(), Formula(seed=15)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=16)) * scale
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    formula.constant *= scale
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    assert relative_error(fitted[0], expected) < 1e-3


def test_examples_all_of_two_pieces_give_equations_that_can_be_solved() -> None:
    """Mean, first and last are then not independent: whatever the rounding errors, there is an answer."""
    for seed in range(30):
        world = world_by_hand(examples=40 + 7 * seed, new=5)
        pairs = torch.randint(0, ATOMS, (2 * len(world.examples),), generator=torch.Generator().manual_seed(seed))
        halves = SparseRows(2 * torch.arange(len(world.examples) + 1), pairs, torch.full((len(pairs),), 0.5))
        examples = PieceFeatures(halves, world.examples.neighbours, world.examples.similarities, world.examples.scalars)
        world = RowRegression(world.example_ids, world.is_held_out, examples, world.new_ids, world.new)
        matrix = random_tensor(ATOMS + len(examples), WIDTH, seed=seed) * 10.0 ** (seed % 7 - 3)
        fitted = world.apply(matrix, all_usable(matrix))
        assert fitted is not None
        assert fitted[0].isfinite().all()


def test_a_constant_matrix_gives_the_constant() -> None:
    world = world_by_hand(examples=100)
    matrix = torch.full((ATOMS + 100, WIDTH), 0.7)
    fitted = world.apply(matrix, all_usable(matrix))
    assert fitted is not None
    torch.testing.assert_close(fitted[0], torch.full((NEW, WIDTH), 0.7))
    assert fitted[1].explained <= 1


def test_unknown_neighbours_are_worth_nothing() -> None:
    """Similarity -inf: whatever ids stand there, and whatever their rows are."""
    features = features_by_hand(20, seed=3)
    features.similarities[5:10] = -torch.inf
    features.similarities[10:, 2:] = -torch.inf
    matrix = random_tensor(ATOMS, WIDTH, seed=17)
    columns = features.columns(matrix)
    assert columns.isfinite().all()
    assert columns.shape == (20, 7 * WIDTH + 3 + 4)
    assert (columns[5:10, 3 * WIDTH : 7 * WIDTH] == 0).all()
    other = PieceFeatures(features.pieces, features.neighbours.clone(), features.similarities, features.scalars)
    other.neighbours[~features.similarities.isfinite()] = 0
    assert torch.equal(other.columns(matrix), columns)


def test_the_columns_are_what_they_are_said_to_be() -> None:
    features, matrix = features_by_hand(30, seed=4), random_tensor(ATOMS, WIDTH, seed=18)
    columns = features.columns(matrix).double()
    for n, pieces in enumerate(pieces_of(features)):
        similarities = features.similarities[n].double()
        near = matrix[features.neighbours[n].long()].double()
        around = (similarities / regression_module.SHARPNESS).softmax(0) @ near
        nearest = float(similarities[0])
        rows = [matrix[pieces].double().mean(0), matrix[pieces[0]], matrix[pieces[-1]], near[0], around]
        expected = torch.cat([
            *rows, near[0] * nearest**2, around * nearest**2,
            torch.tensor([np.log(len(pieces)), 1 / len(pieces), nearest, nearest**2]), features.scalars[n],
        ])  # fmt: skip
        torch.testing.assert_close(columns[n], expected, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_some_facts_are_those_of_the_tokens_chosen() -> None:
    features, matrix = features_by_hand(30, seed=5), random_tensor(ATOMS, WIDTH, seed=19)
    places = torch.tensor([7, 2, 29, 2])
    torch.testing.assert_close(features.select(places).columns(matrix), features.columns(matrix)[places])


# --- leave-one-out -------------------------------------------------------------------------------

SPACES: Mapping[str, Callable[[], AuxiliarySpace]] = {"random": lambda: RandomSpace(seed=2), "ngram": NgramSpace}
spaces = pytest.mark.parametrize("space", SPACES)


@spaces
@pytest.mark.parametrize("block", [1, 50, 2048])
def test_no_old_token_is_its_own_neighbour(space: str, block: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["gemma-style"], zoo["byte-level"], SPACES[space]())
    similarities, ids = problem.candidate_neighbours(12, block=block)
    assert ids.shape == (len(problem.candidates), 12)
    assert not (ids == problem.candidate_ids[:, None]).any()
    assert similarities.isfinite().all()
    assert (similarities.diff(dim=1) <= 0).all()


def test_the_neighbours_of_old_tokens_are_the_nearest_of_the_others(zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["unigram"], zoo["byte-level"], RandomSpace(seed=3))
    similarities, ids = problem.candidate_neighbours(3)
    vectors = problem.vectors_of(problem.candidates)
    all_similarities = vectors @ vectors.T
    for n in range(0, len(vectors), 17):
        others = torch.cat([all_similarities[n, :n], all_similarities[n, n + 1 :]])
        torch.testing.assert_close(similarities[n], others.topk(3).values)
        assert problem.candidates[n].id not in ids[n].tolist()


def test_asked_for_more_neighbours_than_there_are_the_rest_is_infinitely_far() -> None:
    definition = plain_definition(["a", "b", "ab"], decoder=BYTE_LEVEL, merges=["a b"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(["ba"], decoder=BYTE_LEVEL))
    problem = make_problem((definition, base), target, RandomSpace())
    similarities, ids = problem.candidate_neighbours(99)
    assert similarities.shape == (3, 3)
    assert torch.equal(similarities.isfinite(), torch.tensor([[True, True, False]]).expand(3, 3))
    assert not (ids[:, :2] == problem.candidate_ids[:, None]).any()


@spaces
@pytest.mark.parametrize("base", ["byte-level", "gemma-style", "unigram", "wordpiece"])
def test_an_examples_row_is_not_among_its_own_columns(base: str, space: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    target = "sentencepiece-bpe" if base == "byte-level" else "byte-level"
    made = regression_of(plan_between(zoo[base], zoo[target], SPACES[space]()))
    matrix = random_tensor(zoo[base].vocabulary.num_ids, 3, seed=20)
    before = made.examples.columns(matrix)
    changed_others = 0
    for place in range(0, len(made.examples), 5):
        row = int(made.example_ids[place])
        kept = matrix[row].clone()
        matrix[row] = 1e6
        after = made.examples.columns(matrix)
        assert torch.equal(after[place], before[place]), zoo[base].vocabulary.by_id[row]
        changed_others += int((after != before).any(dim=1).sum())
        matrix[row] = kept
    assert changed_others > 10, "it is among the columns of others"


@spaces
@pytest.mark.parametrize(("base", "target"), [("byte-level", "unigram"), ("unigram", "byte-level")])
def test_neighbours_of_examples_are_no_nearer_than_their_ceiling(
    base: str, target: str, space: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    problem = make_problem(zoo[base], zoo[target], SPACES[space]())
    made = regression_of(plan_of(problem))
    tokens = [problem.base.by_id[i] for i in made.example_ids.tolist()]
    ceiling = torch.from_numpy(calibrated._like(made.new.similarities[:, 0].numpy(), tokens, salt=2))
    nearest = made.examples.similarities[:, 0]
    assert (made.examples.similarities <= ceiling[:, None]).all()
    assert len(set(ceiling.tolist())) > 20
    own = problem.candidate_neighbours(1)[0][:, 0]
    of_examples = own[[problem.candidates.index(t) for t in tokens]]
    assert (of_examples > ceiling).any(), "or there was nothing to keep away"
    assert torch.equal(nearest[of_examples <= ceiling], of_examples[of_examples <= ceiling])
    for n, similarities in enumerate(made.examples.similarities.tolist()):
        assert similarities == sorted(similarities, reverse=True), n


def test_what_nothing_trained_is_no_fact(zoo: Mapping[str, TokenizerFiles]) -> None:
    space = RandomSpace(seed=4)
    twins = torch.tensor(sorted(zoo["gemma-style"].vocabulary.byte_twins))
    assert len(twins) > 30
    made = regression_of(plan_between(zoo["gemma-style"], zoo["byte-level"], space))
    assert not torch.isin(made.used_ids, twins).any()
    papers = plan_of(make_problem(zoo["gemma-style"], zoo["byte-level"], space), "global")
    assert torch.isin(papers.composition.ids, twins).any(), "they are no neighbours anyway"


def test_more_pieces_in_the_new_tokens_mean_more_in_the_examples(zoo: Mapping[str, TokenizerFiles]) -> None:
    means = {}
    for target in ("gemma-style", "unigram", "wordpiece"):
        made = regression_of(plan_between(zoo["byte-level"], zoo[target]))
        wanted, counts = (features.pieces.counts[features.pieces.counts > 1] for features in (made.new, made.examples))
        assert len(counts) == len(made.examples)
        assert counts.max() <= wanted.max()
        # Short old tokens cannot be cut into many pieces, so that examples of two are more frequent.
        assert (counts == 2).float().mean() >= (wanted == 2).float().mean() - 0.05
        means[target] = float(counts.float().mean())
    assert means["gemma-style"] + 0.1 < min(means["unigram"], means["wordpiece"])


@pytest.mark.parametrize("lengths", [(2, 3, 4, 8), (5,), (2, 2, 2, 7)], ids=str)
def test_examples_have_as_many_pieces_as_the_new_tokens(lengths: tuple[int, ...]) -> None:
    """Old words of eight letters can be cut into any number; new words are all cut into letters."""
    rng = random.Random(58)
    words = sorted({"".join(rng.choices("abcdefgh", k=8)) for _ in range(400)})
    new = sorted({"".join(rng.choices("ijklmnop", k=length)) for length in lengths for _ in range(14)})
    starts = dict.fromkeys(word[:end] for word in words for end in range(2, 9))
    definition = plain_definition(
        [*"abcdefghijklmnop", *starts], decoder=BYTE_LEVEL, merges=[f"{s[:-1]} {s[-1]}" for s in starts]
    )
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(new, decoder=BYTE_LEVEL))
    made = regression_of(plan_of(make_problem((definition, base), target, RandomSpace())))
    is_long = torch.tensor([len(base.by_id[i].bytes) == 8 for i in made.example_ids.tolist()])
    counts = made.examples.pieces.counts[is_long]
    assert made.new.pieces.counts.tolist() == [len(word) for word in new]
    assert len(counts) > 350
    for number in range(1, 9):
        share, wanted = (float((n <= number).float().mean()) for n in (counts, made.new.pieces.counts))
        assert share == pytest.approx(wanted, abs=0.07), number


def test_examples_are_all_old_tokens_that_can_be_cut_and_a_tenth_is_held_out(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    problem = make_problem(zoo["byte-level"], zoo["unigram"], RandomSpace())
    made = regression_of(plan_of(problem))
    merges = problem.segmenter.definition["model"]["merges"]
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges}
    assert {problem.base.by_id[i].spelling for i in made.example_ids.tolist()} == merged
    assert len(set(made.example_ids.tolist())) == len(made.examples) == len(made.is_held_out)
    assert 0.05 < made.is_held_out.float().mean() < 0.15
    assert made.new_ids.tolist() == problem.new_ids.tolist()
    assert pieces_of(made.new) == [problem.pieces[n].tolist() for n in range(len(problem.pieces))], "in their order"


def test_special_tokens_and_tokens_without_a_row_are_in_no_facts(zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo["byte-level"]
    made = regression_of(plan_between(base, zoo["unigram"], base_rows=450))
    special = set(base.vocabulary.ids(TokenKind.SPECIAL).tolist())
    for features in (made.examples, made.new):
        used = {*features.pieces.ids.tolist(), *features.neighbours[features.similarities.isfinite()].tolist()}
        assert max(used) < 450
        assert not used & special
    assert max(made.example_ids.tolist()) < 450


# --- whole plans ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "target"), [("byte-level", "unigram"), ("byte-level", "wordpiece")])
def test_a_planted_composition_is_recovered_under_the_cuts_of_a_real_plan(
    base: str, target: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    made = plan_between(zoo[base], zoo[target])
    formula = Formula(seed=21, width=4)
    matrix = planted(made, formula, zoo[base].vocabulary.num_ids, seed=22, width=4)
    rows = made.apply(matrix, "embeddings")
    report = made.reports["embeddings"]
    assert report.explained > 0.999
    assert report.examples == len(regression_of(made).examples)
    features = regression_of(made)
    checked = [(i, p) for i, p in zip(features.new_ids.tolist(), pieces_of(features.new), strict=True) if len(p) > 1]
    assert len(checked) > 100
    expected = torch.stack([formula(matrix, pieces) for _, pieces in checked])
    assert relative_error(rows[[i for i, _ in checked]], expected) < 2e-3
    plain = plan_between(zoo[base], zoo[target])
    mean = uniform(make_problem(zoo[base], zoo[target]).pieces).apply(matrix)
    assert relative_error(mean[features.new.pieces.counts > 1], expected) > 0.3, "which their mean is not"
    assert plain.reports == {}


def test_each_matrix_gets_its_own_fit(zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    num_rows = zoo["byte-level"].vocabulary.num_ids
    input_formula, output_formula = Formula(seed=23, width=4), Formula(seed=24, width=4)
    old_input = planted(made, input_formula, num_rows, seed=25, width=4)
    old_output = planted(made, output_formula, num_rows, seed=26, width=4)
    noise = random_tensor(num_rows, 4, seed=27)
    features = regression_of(made)
    ids = features.new_ids[features.new.pieces.counts > 1]
    pieces = [p for p in pieces_of(features.new) if len(p) > 1]
    for name, old, formula in [("input", old_input, input_formula), ("output", old_output, output_formula)]:
        expected = torch.stack([formula(old, p) for p in pieces])
        assert relative_error(made.apply(old, name)[ids], expected) < 2e-3
    made.apply(noise, "noise")
    assert set(made.reports) == {"input", "output", "noise"}
    assert made.reports["input"].explained > 0.999
    assert made.reports["output"].explained > 0.999
    assert made.reports["noise"].explained < 0.3
    alone = plan_between(zoo["byte-level"], zoo["unigram"])
    assert torch.equal(alone.apply(old_output), made.apply(old_output)), "whatever it was applied to before"


def test_the_same_matrix_is_fitted_once_and_another_anew(
    zoo: Mapping[str, TokenizerFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=31)
    solved: list[int] = []
    solve = regression_module._Regression.solve
    monkeypatch.setattr(regression_module._Regression, "solve", lambda self: solved.append(1) or solve(self))
    first, again = made.apply(matrix, "input"), made.apply(matrix.clone(), "output")
    assert torch.equal(first, again)
    assert made.reports["input"] == made.reports["output"]
    assert len(solved) == 1
    changed = matrix.clone()
    changed[int(regression_of(made).example_ids[0])] *= 1.5
    assert not torch.equal(made.apply(changed, "changed"), first)
    changed[int(regression_of(made).example_ids[1])] = torch.nan
    made.apply(changed, "with a bad row")
    assert len(solved) == 3


@pytest.mark.parametrize(("use", "share"), [("input", 0), ("tied", 0.25), ("output", 0.5)])
def test_rows_that_predict_keep_a_share_of_their_pieces(
    use: str, share: float, zoo: Mapping[str, TokenizerFiles]
) -> None:
    made = plan_between(zoo["byte-level"], zoo["unigram"])
    features = regression_of(made)
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 16, seed=28)
    fitted = features.apply(matrix, all_usable(matrix))
    assert fitted is not None
    rows = made.apply(matrix, use=MatrixUse(use))
    for new_id, predicted in zip(features.new_ids.tolist(), fitted[0], strict=True):
        pieces, weights = zip(*made.explain(new_id), strict=True)
        kept = torch.tensor(weights) @ matrix[list(pieces)]
        expected = share * kept + (1 - share) * predicted
        torch.testing.assert_close(rows[new_id], expected, atol=1e-4, rtol=0)
    untouched = made.copied_ids
    assert torch.equal(rows[untouched], made.apply(matrix)[untouched])


@pytest.mark.parametrize(
    ("tied", "untie", "input_use", "output_use"),
    [(True, False, "tied", None), (True, True, "input", "output"), (False, False, "input", "output")],
    ids=["tied", "untied by the recipe", "untied"],
)
def test_a_merge_knows_what_each_matrix_is_for(
    tied: bool,
    untie: bool,
    input_use: str,
    output_use: str | None,
    tmp_path: Path,
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tiny_model_folder: Callable[..., Path],
) -> None:
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=tied)
    out = transplant(base, gemma_style_folder, tmp_path / "out", method="calibrated", untie=untie)
    plan, old, new = TransferPlan.load(out / "tokenadapt.plan"), tensors_of(base), tensors_of(out)
    assert torch.equal(new[EMBEDDINGS], plan.apply(old[EMBEDDINGS], use=MatrixUse(input_use)))
    assert (HEAD in new) == (output_use is not None)
    if output_use is not None:
        assert torch.equal(new[HEAD], plan.apply(old.get(HEAD, old[EMBEDDINGS]), use=MatrixUse(output_use)))


@pytest.mark.parametrize("base", ["byte-level", "gemma-style", "wordpiece"])
@spaces
def test_other_ids_of_the_base_give_the_same_rows(base: str, space: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    old, target = zoo[base], zoo["unigram" if base == "byte-level" else "byte-level"]
    ids = tokenizers_zoo.permutation(old.vocabulary.num_ids, seed=5)
    moved = tokenizers_zoo.renumbered(dict(old.definition), ids.__getitem__)
    moved_vocabulary = Vocabulary.from_definition(moved, old.role_tokens)
    matrix = random_tensor(len(ids), 5, seed=28)
    moved_matrix = torch.empty_like(matrix)
    moved_matrix[torch.tensor(ids)] = matrix
    one = plan_of(make_problem(old, target, SPACES[space]()))
    other = plan_of(make_problem((moved, moved_vocabulary), target, SPACES[space]()))
    rows, moved_rows = one.apply(matrix), other.apply(moved_matrix)
    torch.testing.assert_close(moved_rows, rows, atol=1e-4, rtol=0)
    assert torch.equal(rows[one.copied_ids], moved_rows[one.copied_ids])
    assert one.reports[""].examples == other.reports[""].examples > 50


@pytest.mark.parametrize("target", ["byte-level", "gemma-style", "wordpiece"])
@spaces
def test_other_ids_of_the_target_give_the_same_rows(target: str, space: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    base, new = zoo["unigram"], zoo[target]
    ids = torch.tensor(tokenizers_zoo.permutation(new.vocabulary.num_ids, seed=6))
    moved = tokenizers_zoo.renumbered(dict(new.definition), lambda i: int(ids[i]))
    moved_vocabulary = Vocabulary.from_definition(moved, new.role_tokens)
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=29)
    one = plan_of(make_problem(base, new, SPACES[space]())).apply(matrix)
    other = plan_of(make_problem(base, moved_vocabulary, SPACES[space]())).apply(matrix)
    torch.testing.assert_close(other[ids], one, atol=1e-4, rtol=0)


@pytest.mark.parametrize("space", SPACES)
def test_a_second_run_is_bit_identical(space: str, zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    base, target = zoo["gemma-style"], zoo["byte-level"]
    matrix = random_tensor(base.vocabulary.num_ids, 6, seed=30)
    made = []
    for n in range(2):
        shuffled = tokenizers_zoo.shuffled_entries(dict(base.definition), seed=n)
        vocabulary = Vocabulary.from_definition(shuffled, base.role_tokens)
        plan = plan_of(make_problem((shuffled, vocabulary), target, SPACES[space]()))
        plan.save(tmp_path / f"{n}.plan")
        made.append(plan.apply(matrix))
    assert torch.equal(*made)
    assert (tmp_path / "0.plan").read_bytes() == (tmp_path / "1.plan").read_bytes()


def test_a_saved_plan_gives_the_same_rows_and_the_same_file(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    made.save(tmp_path / "a.plan")
    loaded = TransferPlan.load(tmp_path / "a.plan")
    matrix = random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=31)
    assert torch.equal(made.apply(matrix, "x"), loaded.apply(matrix, "x"))
    assert made.reports == loaded.reports
    assert loaded.reports["x"].examples > 100
    assert len(loaded.unreachable_ids) > 0
    assert torch.equal(made.unreachable_ids, loaded.unreachable_ids)
    one, other = regression_of(made).tensors(), regression_of(loaded).tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)
    loaded.save(tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_a_plan_without_one_of_its_facts_is_refused(zoo: Mapping[str, TokenizerFiles], tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    plan_between(zoo["byte-level"], zoo["gemma-style"]).save(tmp_path / "good.plan")
    with safe_open(tmp_path / "good.plan", framework="pt") as opened:
        metadata = opened.metadata()
    names = [name for name in load_file(tmp_path / "good.plan") if name.startswith("regression.")]
    assert len(names) == 4 + 2 * 6
    for name in names:
        tensors = load_file(tmp_path / "good.plan")
        del tensors[name]
        save_file(tensors, tmp_path / "a.plan", metadata=metadata)
        with pytest.raises(TokenAdaptError, match="is not a transfer plan"):
            TransferPlan.load(tmp_path / "a.plan")


def test_a_matrix_with_too_few_rows_for_the_examples_is_refused() -> None:
    """Whichever rows the compositions need, the examples and neighbours need theirs."""
    spellings = [*"abcdefgh", *(x + y for x in "abcdefgh" for y in "abcdefgh")]
    definition = plain_definition(
        spellings, decoder=BYTE_LEVEL, merges=[f"{x} {y}" for x in "abcdefgh" for y in "abcdefgh"]
    )
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*"abcdefgh", "abc"], decoder=BYTE_LEVEL))
    made = plan_of(make_problem((definition, base), target, RandomSpace()))
    made.apply(random_tensor(base.num_ids, 2))
    with pytest.raises(TokenAdaptError, match="has 20 rows, but the plan uses 72"):
        made.apply(random_tensor(20, 2))


def test_every_row_has_one_origin(zoo: Mapping[str, TokenizerFiles]) -> None:
    for base, target in [("byte-level", "gemma-style"), ("wordpiece", "gemma-style"), ("unigram", "byte-level")]:
        made = plan_between(zoo[base], zoo[target], num_rows=zoo[target].vocabulary.num_ids + 3)
        origins = torch.cat([made.copied_ids, made.composed_ids, made.mean_ids])
        assert sorted(origins.tolist()) == list(range(made.num_rows))


def test_copied_rows_are_bit_identical_and_predicted_ones_are_not_the_mean_of_pieces(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    problem = make_problem(zoo["byte-level"], zoo["unigram"], RandomSpace())
    made = plan_of(problem)
    matrix = planted(made, Formula(seed=32, width=4), problem.base.num_ids, seed=33, width=4)
    rows = made.apply(matrix)
    assert torch.equal(rows[made.copied_ids], matrix[made.mapping.sources[made.copied_ids.numpy()]])
    plain = plan_of(problem, "mean").apply(matrix)
    new = torch.from_numpy(problem.new_ids)
    assert not torch.isclose(rows[new], plain[new]).all(dim=1).any()


def test_rows_made_from_a_text_are_the_mean_of_its_pieces(zoo: Mapping[str, TokenizerFiles]) -> None:
    base, target = zoo["byte-level"], zoo["gemma-style"]
    made = plan_of(make_problem(base, target, RandomSpace(), token_map={"<start_of_turn>": " the river the"}))
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=34)
    row = made.apply(matrix)[target.vocabulary.by_spelling["<start_of_turn>"].id]
    the, river = (base.vocabulary.find(text).id for text in (" the", " river"))
    torch.testing.assert_close(row, (2 * matrix[the] + matrix[river]) / 3)


# --- edges ---------------------------------------------------------------------------------------


def small_world(new: list[str], *, merges: bool = True, letters: str = "abcdefgh") -> tuple[TransferProblem, int]:
    """All pairs and some triples of eight letters."""
    pairs = [x + y for x in letters for y in letters]
    triples = [pair + z for pair in pairs[::3] for z in letters[::2]]
    written = [f"{t[:-1]} {t[-1]}" for t in [*pairs, *triples]] if merges else []
    definition = plain_definition([*letters, *pairs, *triples], decoder=BYTE_LEVEL, merges=written)
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*letters, *new], decoder=BYTE_LEVEL))
    return make_problem((definition, base), target, RandomSpace(seed=4)), base.num_ids


def test_without_any_merge_new_rows_are_means_of_their_pieces() -> None:
    problem, num_rows = small_world(["abcd", "hgfe"], merges=False)
    made = plan_of(problem)
    matrix = random_tensor(num_rows, 5, seed=35)
    rows = made.apply(matrix)
    by_place = torch.tensor([12, 6, 4, 3]) / 25
    expected = torch.stack([by_place @ matrix[:4], by_place @ matrix[[7, 6, 5, 4]]])
    torch.testing.assert_close(rows[8:], expected)
    assert made.reports == {}


def test_too_few_examples_give_means_of_pieces_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    definition = plain_definition([*"abcd", "ab", "cd"], decoder=BYTE_LEVEL, merges=["a b", "c d"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*"abcd", "abc"], decoder=BYTE_LEVEL))
    made = plan_of(make_problem((definition, base), target, RandomSpace()))
    matrix = random_tensor(6, 3, seed=36)
    with caplog.at_level(logging.WARNING):
        rows = made.apply(matrix, "x")
    torch.testing.assert_close(rows[4], (2 * matrix[4] + matrix[2]) / 3)
    assert "too few base tokens to fit the regression" in caplog.text
    assert made.reports == {}


WORDS, SUPERTOKENS = ["abcd", "\u0120gfed", "fedca"], ["ab\u0120cd", "\u0120a\u0120bcg", "g\u0120\u0120f"]


def rows_by_spelling(problem: TransferProblem, num_rows: int, method: str = "calibrated") -> dict[str, Tensor]:
    rows = plan_of(problem, method).apply(random_tensor(num_rows, 5, seed=39))
    return {token.spelling: rows[token.id] for token in problem.target}


def test_supertokens_without_examples_are_made_by_the_papers_hybrid() -> None:
    letters = "abcdefg\u0120"
    mixed = [*WORDS[:2], *SUPERTOKENS, WORDS[2]]
    problem, num_rows = small_world(mixed, letters=letters)
    made, hybrid = rows_by_spelling(problem, num_rows), rows_by_spelling(problem, num_rows, "hybrid")
    words_only = rows_by_spelling(*small_world(WORDS, letters=letters))
    for supertoken in SUPERTOKENS:
        torch.testing.assert_close(made[supertoken], hybrid[supertoken])
    for word in WORDS:
        torch.testing.assert_close(made[word], words_only[word])
        assert not torch.allclose(made[word], hybrid[word], atol=0.01)


def test_with_nothing_but_supertokens_there_is_no_map_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    problem, num_rows = small_world(SUPERTOKENS, letters="abcdefg\u0120")
    with caplog.at_level(logging.WARNING):
        made, hybrid = rows_by_spelling(problem, num_rows), rows_by_spelling(problem, num_rows, "hybrid")
    assert all(torch.equal(made[s], hybrid[s]) for s in SUPERTOKENS)
    assert not caplog.records


def test_with_enough_old_supertokens_the_map_makes_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, num_rows = small_world([*WORDS, *SUPERTOKENS], letters="abcdefg\u0120")
    monkeypatch.setattr(calibrated, "ENOUGH_SUPERTOKENS", sum(t.spans_words for t in problem.candidates))
    made, hybrid = rows_by_spelling(problem, num_rows), rows_by_spelling(problem, num_rows, "hybrid")
    assert not any(torch.allclose(made[s], hybrid[s], atol=0.01) for s in SUPERTOKENS)


def test_with_nothing_new_nothing_is_calibrated() -> None:
    problem, num_rows = small_world([])
    made = plan_of(problem)
    assert made.regression is None
    assert made.mapping.counts()["new"] == 0
    matrix = random_tensor(num_rows, 3, seed=37)
    assert torch.equal(made.apply(matrix), matrix[:8])


def test_exactly_one_new_token() -> None:
    problem, num_rows = small_world(["abcde"])
    made = plan_of(problem)
    formula = Formula(seed=38, width=3)
    matrix = planted(made, formula, num_rows, seed=39, width=3)
    rows = made.apply(matrix, "x")
    (pieces,) = pieces_of(regression_of(made).new)
    assert len(pieces) > 1
    # Examples are like this one token, so that some columns hardly vary: not as exact as with many.
    assert relative_error(rows[8], formula(matrix, pieces)) < 0.05
    assert relative_error(matrix[pieces].mean(0), formula(matrix, pieces)) > 0.5
    assert made.reports["x"].explained > 0.99


def test_a_bias_is_calibrated_as_any_matrix() -> None:
    problem, num_rows = small_world(["abcde", "hgfed", "acaca"])
    made = plan_of(problem)
    bias = planted(made, Formula(seed=40, width=1), num_rows, seed=41, width=1)[:, 0]
    rows = made.apply(bias, "bias")
    assert rows.shape == (11,)
    assert made.reports["bias"].explained > 0.99
    assert torch.equal(rows, made.apply(bias[:, None], "matrix")[:, 0])
    assert torch.equal(made.apply(bias.reshape(-1, 1, 1)), rows.reshape(-1, 1, 1))


def test_a_bias_of_zeros_stays_zero() -> None:
    problem, num_rows = small_world(["abcde", "hgfed"])
    made = plan_of(problem)
    assert torch.equal(made.apply(torch.zeros(num_rows)), torch.zeros(10))


def test_a_wide_matrix_is_fitted_along_its_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_directions, "MAX_DIRECTIONS", 8)
    seen: list[int] = []
    columns = PieceFeatures.columns
    monkeypatch.setattr(PieceFeatures, "columns", lambda self, m: seen.append(m.shape[1]) or columns(self, m))
    world, formula = world_by_hand(), Formula(seed=42)
    narrow = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=43))
    basis = torch.linalg.qr(random_tensor(20, 20, seed=44)).Q[:WIDTH]
    wide = narrow @ basis + 1e-5 * random_tensor(len(narrow), 20, seed=45)
    fitted = world.apply(wide, all_usable(wide))
    assert fitted is not None
    made, report = fitted
    assert made.shape == (NEW, 20)
    expected = torch.stack([formula(narrow, pieces) for pieces in pieces_of(world.new)]) @ basis
    assert relative_error(made, expected) < 1e-3
    assert report.explained > 0.999
    assert set(seen) == {8}


def test_a_matrix_as_wide_as_allowed_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_tensor(50, 8, seed=46)
    for limit, same in [(8, True), (7, False)]:
        monkeypatch.setattr(principal_directions, "MAX_DIRECTIONS", limit)
        made = principal_directions.along_principal_directions(matrix)
        assert made.shape == (50, limit)
        assert (made is matrix) == same


def test_texts_that_the_space_knows_nothing_of_are_predicted_too() -> None:
    problem, num_rows = small_world(["abcde", "hgfed"])

    class Nothing(RandomSpace):
        def vector(self, text: str) -> list[float]:
            return [0.0, 0.0]

    object.__setattr__(problem, "auxiliary", Nothing())
    made = plan_of(problem)
    assert not regression_of(made).new.similarities.isfinite().any()
    assert not regression_of(made).examples.similarities.isfinite().any()
    formula = Formula(seed=47, width=3)
    matrix = planted(made, formula, num_rows, seed=48, width=3)
    rows = made.apply(matrix)
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(regression_of(made).new)])
    assert relative_error(rows[8:], expected) < 1e-2


@pytest.mark.parametrize("top_k", [1, 3, 10**6])
def test_any_number_of_neighbours_will_do(top_k: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["byte-level"], zoo["gemma-style"], RandomSpace())
    made = plan_of(problem, top_k=top_k)
    features = regression_of(made)
    width = min(top_k, len(problem.candidates))
    assert features.new.neighbours.shape[1] == features.examples.neighbours.shape[1] == width
    rows = made.apply(random_tensor(problem.base.num_ids, 4, seed=49))
    assert rows.isfinite().all()
    assert made.options == {"top_k": top_k, "donor": False}


# --- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bad_rows_do_not_spread(
    bad: float, dtype: torch.dtype, zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    base, target = zoo["byte-level"], zoo["unigram"]
    made = plan_between(base, target)
    features = regression_of(made)
    matrix = random_tensor(base.vocabulary.num_ids, 5, seed=50).to(dtype)
    with caplog.at_level(logging.WARNING):
        whole = made.apply(matrix, "whole")
    assert caplog.text == ""
    answers = features.example_ids[::40].tolist()
    pieces = features.examples.pieces.ids[:10].tolist() + features.new.pieces.ids[:10].tolist()
    neighbours = features.new.neighbours[:5, 0].tolist()
    broken = sorted({*answers, *pieces, *neighbours})
    for row in broken:
        matrix[row, row % 5] = bad
    with caplog.at_level(logging.WARNING):
        rows = made.apply(matrix, "broken")
    assert f"{len(broken)} old rows hold NaN or infinite numbers" in caplog.text
    copied_from = made.mapping.sources[made.copied_ids.numpy()]
    is_bad = np.isin(copied_from, broken)
    assert is_bad.any()
    expected_bad = made.copied_ids[torch.from_numpy(is_bad)].tolist()
    assert (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist() == expected_bad
    assert made.reports["whole"].examples - made.reports["broken"].examples == len(
        set(broken) & set(features.example_ids.tolist())
    )
    kept = made.copied_ids[torch.from_numpy(~is_bad)]
    assert torch.equal(rows[kept], whole[kept])


def test_a_bad_row_is_not_an_answer() -> None:
    """The planted composition is still recovered, exactly, where a few answers are broken."""
    world, formula = world_by_hand(), Formula(seed=51)
    matrix = planted_by_hand(world, formula, random_tensor(ATOMS, WIDTH, seed=52))
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(world.new)])
    usable = all_usable(matrix)
    usable[ATOMS + 3 :: 100] = False  # one of them held out
    usable[ATOMS + 7 :: 100] = False
    matrix[~usable] = 1e4
    fitted = world.apply(matrix, usable)
    assert fitted is not None
    assert relative_error(fitted[0], expected) < 1e-3
    assert (fitted[1].examples, fitted[1].held_out) == (EXAMPLES - 18, EXAMPLES // 10 - 9)


def test_where_all_examples_are_bad_there_is_no_map(
    zoo: Mapping[str, TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    base = zoo["byte-level"]
    made = plan_between(base, zoo["unigram"])
    matrix = random_tensor(base.vocabulary.num_ids, 3, seed=53)
    matrix[regression_of(made).example_ids] = torch.nan
    with caplog.at_level(logging.WARNING):
        rows = made.apply(matrix)
    assert "too few base tokens to fit the regression" in caplog.text
    assert rows[made.composed_ids].isfinite().all()
    assert rows[made.mean_ids].isfinite().all()


# --- byte tokens that nothing produces -----------------------------------------------------------


@pytest.mark.parametrize("target", ["gemma-style", "sentencepiece-bpe"])
@pytest.mark.parametrize("base", ["byte-level", "unigram", "wordpiece"])
def test_byte_tokens_beside_an_ordinary_token_become_mean_rows(
    base: str, target: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    vocabulary = zoo[target].vocabulary
    made = plan_between(zoo[base], zoo[target], num_rows=vocabulary.num_ids + 1)
    rows = made.apply(random_tensor(zoo[base].vocabulary.num_ids, 4, seed=54))
    mean_row = rows[-1]
    others = {t.bytes for t in vocabulary if t.kind in (TokenKind.ORDINARY, TokenKind.ADDED)}
    bytes_ = [t for t in vocabulary if t.kind is TokenKind.BYTE]
    twins = [t.id for t in bytes_ if t.bytes in others]
    single = [t.id for t in bytes_ if t.bytes not in others]
    assert len(twins) > 30
    assert len(single) > 100
    is_mean = (rows == mean_row).all(dim=1)
    assert [vocabulary.by_id[i].spelling for i in twins if not is_mean[i]] == []
    copied = [i for i in single if made.mapping.sources[i] >= 0]
    assert not is_mean[copied].any()
    assert torch.isin(torch.tensor(twins), made.mean_ids).all()
    assert not torch.isin(torch.tensor(copied), made.mean_ids).any()


def test_an_added_token_makes_its_byte_unreachable_and_a_special_one_does_not(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    definition = plain_definition(
        ["<0x09>", "<0x41>", "<0x42>", "<0x43>", "A", "\t", "B"],
        [added("\t", 5, special=False), added("B", 6)],
        decoder={"type": "ByteFallback"},
        byte_fallback=True,
    )
    problem = make_problem(zoo["byte-level"], Vocabulary.from_definition(definition))
    assert [problem.target.by_id[i].spelling for i in sorted(problem.target.byte_twins)] == ["<0x09>", "<0x41>"]


def test_ordinary_tokens_of_one_byte_are_never_called_unreachable(zoo: Mapping[str, TokenizerFiles]) -> None:
    for target in ("gemma-style", "sentencepiece-bpe"):
        problem = make_problem(zoo["byte-level"], zoo[target])
        assert {problem.target.by_id[i].kind for i in problem.target.byte_twins} == {TokenKind.BYTE}
    for target in ("unigram", "wordpiece"):
        assert make_problem(zoo["byte-level"], zoo[target]).target.byte_twins == frozenset()


def test_explain_says_that_an_unreachable_row_is_a_mean_row(zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    assert len(made.unreachable_ids) > 30
    assert {row: made.explain(row) for row in made.unreachable_ids.tolist() if made.explain(row)} == {}


@pytest.mark.parametrize("name", ["gemma-style", "sentencepiece-bpe", "byte-level"])
def test_the_same_tokenizer_changes_no_bit(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo[name], zoo[name])
    assert len(made.unreachable_ids) == 0
    matrix = random_tensor(zoo[name].vocabulary.num_ids, 4, seed=55)
    matrix[5] = torch.nan
    matrix[7] = -0.0
    rows = made.apply(matrix)
    assert torch.equal(rows.view(torch.int32), matrix.view(torch.int32))


@pytest.mark.parametrize("name", ["mean", "local", "global", "hybrid"])
def test_the_papers_methods_keep_unreachable_rows(name: str, zoo: Mapping[str, TokenizerFiles]) -> None:
    problem = make_problem(zoo["byte-level"], zoo["gemma-style"], RandomSpace())
    assert len(problem.target.byte_twins) > 30
    made = plan_of(problem, name)
    assert len(made.unreachable_ids) == 0
    assert made.regression is None
    copied = made.mapping.ids(Reason.COPIED)
    matrix = random_tensor(problem.base.num_ids, 4, seed=56)
    assert torch.equal(made.apply(matrix)[copied], matrix[made.mapping.sources[copied]])


# --- dtypes and options --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:])
def test_the_dtype_stays(dtype: torch.dtype, zoo: Mapping[str, TokenizerFiles]) -> None:
    made = plan_between(zoo["byte-level"], zoo["gemma-style"])
    matrix = (0.02 * random_tensor(zoo["byte-level"].vocabulary.num_ids, 6, seed=57)).to(dtype)
    before = matrix.clone()
    rows = made.apply(matrix, "x")
    assert rows.dtype == dtype
    assert rows.isfinite().all()
    assert torch.equal(matrix, before)
    assert made.reports["x"].examples > 300
    exact = made.apply(matrix.float())
    torch.testing.assert_close(rows.float(), exact, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("value", [0, -3, 2.5, None, "many"])
def test_top_k_out_of_range_names_its_key_and_value(value: object) -> None:
    with pytest.raises(TokenAdaptError, match=f"method 'calibrated': top_k: .*not {value!r}"):
        find_method("calibrated", {"top_k": value})


def test_what_the_method_says_of_itself() -> None:
    method = find_method("calibrated", {})
    assert method.model_dump() == {"top_k": 8, "donor": False}
    assert (method.needs_auxiliary, method.has_regression, method.unreachable_as_mean) == (True, True, True)
    with pytest.raises(TokenAdaptError, match="method 'calibrated': unknown option 'temperature'"):
        find_method("calibrated", {"temperature": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("):\n", {")": 2 / 3, ":": 1 / 3}),
        (" ab", {"a": 3 / 5, "b": 2 / 5}),
        ("\n\n ", {"\n": 9 / 11, " ": 2 / 11}),
        ("abba", {"a": 15 / 25, "b": 10 / 25}),
    ],
    ids=["white space last", "white space first", "nothing but white space", "a piece twice"],
)
def test_what_is_kept_of_the_pieces(text: str, expected: dict[str, float]) -> None:
    definition = plain_definition([*"):ab", "\u010a", "\u0120"], decoder=BYTE_LEVEL, pre_tokenizer=BYTE_LEVEL)
    spelling = text.replace("\n", "\u010a").replace(" ", "\u0120")
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([spelling], decoder=BYTE_LEVEL))
    made = calibrated.front_weighted(make_problem((definition, base), target, RandomSpace()))
    assert {base.by_id[i].label: weight for i, weight in made.row(0)} == pytest.approx(expected)


@pytest.mark.parametrize("base", ["byte-level", "wordpiece", "unigram"])
def test_its_mixtures_weigh_earlier_pieces_more_and_white_space_not_at_all(
    base: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    problem = make_problem(zoo[base], zoo["gemma-style"], RandomSpace())
    plan = plan_of(problem)
    unreachable = set(plan.unreachable_ids.tolist())
    made = [(row, token) for row, token in enumerate(problem.new_tokens) if token.id not in unreachable]
    assert len(made) > 40
    kinds_of_pieces = set()
    for row, token in made:
        expected: dict[int, float] = {}
        pieces = problem.pieces[row].tolist()
        is_blank = [zoo[base].vocabulary.by_id[i].bytes.decode(errors="replace").isspace() for i in pieces]
        for place, (piece, blank) in enumerate(zip(pieces, is_blank, strict=True), start=1):
            if not blank or all(is_blank):
                expected[piece] = expected.get(piece, 0) + 1 / place
        kinds_of_pieces.add(frozenset(is_blank))
        total = sum(expected.values())
        found = dict(plan.explain(token.id))
        assert found == pytest.approx({piece: weight / total for piece, weight in expected.items()}), token
    if base != "wordpiece":  # whose pieces are never white space
        assert kinds_of_pieces >= {frozenset([False]), frozenset([True]), frozenset([False, True])}


# --- through mergekit ----------------------------------------------------------------------------


def test_the_manifest_says_how_well_each_matrix_was_fitted(
    tmp_path: Path,
    byte_level_folder: Path,
    gemma_style_folder: Path,
    tiny_model_folder: Callable[..., Path],
) -> None:
    from mergekit.options import MergeOptions
    from safetensors.torch import load_file

    from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
    recipe = make_recipe(str(base), str(gemma_style_folder), {"method": "calibrated"})
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    (record,) = json.loads((out / "tokenadapt.json").read_text())["inputs"]
    assert record["method"] == "calibrated"
    assert record["options"] == {"top_k": 8, "donor": False}
    assert sorted(record["fits"]) == ["lm_head.weight", "model.embed_tokens.weight"]
    assert record["fits"]["lm_head.weight"] != record["fits"]["model.embed_tokens.weight"]
    plan = TransferPlan.load(out / "tokenadapt.plan")
    uses = {EMBEDDINGS: MatrixUse.INPUT, HEAD: MatrixUse.OUTPUT}
    before, after = load_file(base / "model.safetensors"), {}
    for file in out.glob("*.safetensors"):
        after |= load_file(file)
    for name, fit in record["fits"].items():
        assert set(fit) == {"examples", "held_out", "penalty", "explained"}
        assert fit["examples"] > fit["held_out"] > 0
        torch.testing.assert_close(after[name], plan.apply(before[name], name, uses[name]), atol=1e-6, rtol=0)
        assert fit["explained"] == pytest.approx(plan.reports[name].explained, abs=1e-4)
        assert fit["examples"] == plan.reports[name].examples
