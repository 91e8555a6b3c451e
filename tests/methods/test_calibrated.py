"""What the method `calibrated` chooses: examples, neighbours, and the weights that it falls back on."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping

import pytest
import torch
from planted_rows import (
    SPACES,
    Formula,
    pieces_of,
    plan_between,
    plan_of,
    planted,
    random_tensor,
    regression_of,
    relative_error,
    small_world,
    spaces,
)
from tokenizers_zoo import BYTE_LEVEL, RandomSpace, make_transfer, plain_definition
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import calibrated, find_method
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.transfer import Transfer


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
    transfer = make_transfer(zoo[base], zoo[target], SPACES[space]())
    made = regression_of(plan_of(transfer))
    tokens = [transfer.base.vocabulary.by_id[i] for i in made.example_ids.tolist()]
    ceiling = torch.from_numpy(calibrated.like(made.new.similarities[:, 0].numpy(), tokens, salt=2))
    nearest = made.examples.similarities[:, 0]
    assert (made.examples.similarities <= ceiling[:, None]).all()
    assert len(set(ceiling.tolist())) > 20
    own = transfer.candidate_neighbours(1)[0][:, 0]
    of_examples = own[[transfer.candidates.index(t) for t in tokens]]
    assert (of_examples > ceiling).any(), "or there was nothing to keep away"
    assert torch.equal(nearest[of_examples <= ceiling], of_examples[of_examples <= ceiling])
    for n, similarities in enumerate(made.examples.similarities.tolist()):
        assert similarities == sorted(similarities, reverse=True), n


def test_what_nothing_trained_is_no_feature(zoo: Mapping[str, TokenizerFiles]) -> None:
    space = RandomSpace(seed=4)
    twins = torch.tensor(sorted(zoo["gemma-style"].vocabulary.byte_twins))
    assert len(twins) > 30
    made = regression_of(plan_between(zoo["gemma-style"], zoo["byte-level"], space))
    assert not torch.isin(made.used_ids, twins).any()
    papers = plan_of(make_transfer(zoo["gemma-style"], zoo["byte-level"], space), "global")
    assert torch.isin(papers.composition.ids, twins).any(), "they are no neighbours anyway"


def test_more_pieces_in_the_new_tokens_mean_more_in_the_examples(zoo: Mapping[str, TokenizerFiles]) -> None:
    means = {}
    for target in ("gemma-style", "unigram", "wordpiece"):
        made = regression_of(plan_between(zoo["byte-level"], zoo[target]))
        wanted, counts = (features.pieces.counts[features.pieces.counts > 1] for features in (made.new, made.examples))
        assert len(counts) == len(made.examples)
        assert counts.max() <= wanted.max()
        # Short old tokens cannot be split into many pieces, so that examples of two are more frequent.
        assert (counts == 2).float().mean() >= (wanted == 2).float().mean() - 0.05
        means[target] = float(counts.float().mean())
    assert means["gemma-style"] + 0.1 < min(means["unigram"], means["wordpiece"])


@pytest.mark.parametrize("lengths", [(2, 3, 4, 8), (5,), (2, 2, 2, 7)], ids=str)
def test_examples_have_as_many_pieces_as_the_new_tokens(lengths: tuple[int, ...]) -> None:
    """Old words of eight letters can be split into any number; new words are all segmented into letters."""
    rng = random.Random(58)
    words = sorted({"".join(rng.choices("abcdefgh", k=8)) for _ in range(400)})
    new = sorted({"".join(rng.choices("ijklmnop", k=length)) for length in lengths for _ in range(14)})
    starts = dict.fromkeys(word[:end] for word in words for end in range(2, 9))
    definition = plain_definition(
        [*"abcdefghijklmnop", *starts], decoder=BYTE_LEVEL, merges=[f"{s[:-1]} {s[-1]}" for s in starts]
    )
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition(new, decoder=BYTE_LEVEL))
    made = regression_of(plan_of(make_transfer((definition, base), target, RandomSpace())))
    is_long = torch.tensor([len(base.by_id[i].bytes) == 8 for i in made.example_ids.tolist()])
    counts = made.examples.pieces.counts[is_long]
    assert made.new.pieces.counts.tolist() == [len(word) for word in new]
    assert len(counts) > 350
    for number in range(1, 9):
        share, wanted = (float((n <= number).float().mean()) for n in (counts, made.new.pieces.counts))
        assert share == pytest.approx(wanted, abs=0.07), number


def test_examples_are_all_old_tokens_that_can_be_split_and_a_tenth_is_held_out(
    zoo: Mapping[str, TokenizerFiles],
) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["unigram"], RandomSpace())
    made = regression_of(plan_of(transfer))
    merges = transfer.base.definition["model"]["merges"]
    merged = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges}
    assert {transfer.base.vocabulary.by_id[i].spelling for i in made.example_ids.tolist()} == merged
    assert len(set(made.example_ids.tolist())) == len(made.examples) == len(made.is_held_out)
    assert 0.05 < made.is_held_out.float().mean() < 0.15
    assert made.new_ids.tolist() == transfer.new_ids.tolist()
    assert pieces_of(made.new) == [transfer.pieces[n].tolist() for n in range(len(transfer.pieces))], "in their order"


def test_special_tokens_and_tokens_without_a_row_are_in_no_features(zoo: Mapping[str, TokenizerFiles]) -> None:
    base = zoo["byte-level"]
    made = regression_of(plan_between(base, zoo["unigram"], base_rows=450))
    special = set(base.vocabulary.ids(TokenKind.SPECIAL).tolist())
    for features in (made.examples, made.new):
        used = {*features.pieces.ids.tolist(), *features.neighbours[features.similarities.isfinite()].tolist()}
        assert max(used) < 450
        assert not used & special
    assert max(made.example_ids.tolist()) < 450


def test_without_any_merge_new_rows_are_means_of_their_pieces() -> None:
    transfer, num_rows = small_world(["abcd", "hgfe"], merges=False)
    made = plan_of(transfer)
    matrix = random_tensor(num_rows, 5, seed=35)
    applied = made.apply(matrix)
    rows = applied.rows
    by_place = torch.tensor([12, 6, 4, 3]) / 25
    expected = torch.stack([by_place @ matrix[:4], by_place @ matrix[[7, 6, 5, 4]]])
    torch.testing.assert_close(rows[8:], expected)
    assert applied.report is None


def test_too_few_examples_give_means_of_pieces_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    definition = plain_definition([*"abcd", "ab", "cd"], decoder=BYTE_LEVEL, merges=["a b", "c d"])
    base = Vocabulary.from_definition(definition)
    target = Vocabulary.from_definition(plain_definition([*"abcd", "abc"], decoder=BYTE_LEVEL))
    made = plan_of(make_transfer((definition, base), target, RandomSpace()))
    matrix = random_tensor(6, 3, seed=36)
    with caplog.at_level(logging.WARNING):
        applied = made.apply(matrix)
    torch.testing.assert_close(applied.rows[4], (2 * matrix[4] + matrix[2]) / 3)
    assert "too few base tokens to fit the regression" in caplog.text
    assert applied.report is None


WORDS, SUPERTOKENS = ["abcd", "\u0120gfed", "fedca"], ["ab\u0120cd", "\u0120a\u0120bcg", "g\u0120\u0120f"]


def rows_by_spelling(transfer: Transfer, num_rows: int, method: str = "calibrated") -> dict[str, Tensor]:
    rows = plan_of(transfer, method).apply(random_tensor(num_rows, 5, seed=39)).rows
    return {token.spelling: rows[token.id] for token in transfer.target.vocabulary}


def test_supertokens_without_examples_are_made_by_the_papers_hybrid() -> None:
    letters = "abcdefg\u0120"
    mixed = [*WORDS[:2], *SUPERTOKENS, WORDS[2]]
    transfer, num_rows = small_world(mixed, letters=letters)
    made, hybrid = rows_by_spelling(transfer, num_rows), rows_by_spelling(transfer, num_rows, "hybrid")
    words_only = rows_by_spelling(*small_world(WORDS, letters=letters))
    for supertoken in SUPERTOKENS:
        torch.testing.assert_close(made[supertoken], hybrid[supertoken])
    for word in WORDS:
        torch.testing.assert_close(made[word], words_only[word])
        assert not torch.allclose(made[word], hybrid[word], atol=0.01)


def test_with_nothing_but_supertokens_there_is_no_map_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    transfer, num_rows = small_world(SUPERTOKENS, letters="abcdefg\u0120")
    with caplog.at_level(logging.WARNING):
        made, hybrid = rows_by_spelling(transfer, num_rows), rows_by_spelling(transfer, num_rows, "hybrid")
    assert all(torch.equal(made[s], hybrid[s]) for s in SUPERTOKENS)
    assert not caplog.records


def test_with_enough_old_supertokens_the_map_makes_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    transfer, num_rows = small_world([*WORDS, *SUPERTOKENS], letters="abcdefg\u0120")
    monkeypatch.setattr(calibrated, "ENOUGH_SUPERTOKENS", sum(t.spans_words for t in transfer.candidates))
    made, hybrid = rows_by_spelling(transfer, num_rows), rows_by_spelling(transfer, num_rows, "hybrid")
    assert not any(torch.allclose(made[s], hybrid[s], atol=0.01) for s in SUPERTOKENS)


def test_with_nothing_new_nothing_is_calibrated() -> None:
    transfer, num_rows = small_world([])
    made = plan_of(transfer)
    assert made.regression is None
    assert made.mapping.counts()["new"] == 0
    matrix = random_tensor(num_rows, 3, seed=37)
    assert torch.equal(made.apply(matrix).rows, matrix[:8])


def test_exactly_one_new_token() -> None:
    transfer, num_rows = small_world(["abcde"])
    made = plan_of(transfer)
    formula = Formula(seed=38, width=3)
    matrix = planted(made, formula, num_rows, seed=39, width=3)
    applied = made.apply(matrix)
    (pieces,) = pieces_of(regression_of(made).new)
    assert len(pieces) > 1
    # Examples are like this one token, so that some columns hardly vary: not as exact as with many.
    assert relative_error(applied.rows[8], formula(matrix, pieces)) < 0.05
    assert relative_error(matrix[pieces].mean(0), formula(matrix, pieces)) > 0.5
    assert applied.report is not None
    assert applied.report.explained > 0.99


def test_texts_that_the_space_knows_nothing_of_are_predicted_too() -> None:
    transfer, num_rows = small_world(["abcde", "hgfed"])

    class Nothing(RandomSpace):
        def vector(self, text: str) -> list[float]:
            return [0.0, 0.0]

    object.__setattr__(transfer, "auxiliary", Nothing())
    made = plan_of(transfer)
    assert not regression_of(made).new.similarities.isfinite().any()
    assert not regression_of(made).examples.similarities.isfinite().any()
    formula = Formula(seed=47, width=3)
    matrix = planted(made, formula, num_rows, seed=48, width=3)
    rows = made.apply(matrix).rows
    expected = torch.stack([formula(matrix, pieces) for pieces in pieces_of(regression_of(made).new)])
    assert relative_error(rows[8:], expected) < 1e-2


@pytest.mark.parametrize("top_k", [1, 3, 10**6])
def test_any_number_of_neighbours_will_do(top_k: int, zoo: Mapping[str, TokenizerFiles]) -> None:
    transfer = make_transfer(zoo["byte-level"], zoo["gemma-style"], RandomSpace())
    made = plan_of(transfer, top_k=top_k)
    features = regression_of(made)
    width = min(top_k, len(transfer.candidates))
    assert features.new.neighbours.shape[1] == features.examples.neighbours.shape[1] == width
    rows = made.apply(random_tensor(transfer.base.vocabulary.num_ids, 4, seed=49)).rows
    assert rows.isfinite().all()
    assert made.options == {"top_k": top_k, "donor": False}


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
    made = calibrated.front_weighted(make_transfer((definition, base), target, RandomSpace()))
    assert {base.by_id[i].label: weight for i, weight in made.row(0)} == pytest.approx(expected)


@pytest.mark.parametrize("base", ["byte-level", "wordpiece", "unigram"])
def test_its_mixtures_weigh_earlier_pieces_more_and_white_space_not_at_all(
    base: str, zoo: Mapping[str, TokenizerFiles]
) -> None:
    transfer = make_transfer(zoo[base], zoo["gemma-style"], RandomSpace())
    plan = plan_of(transfer)
    unreachable = set(plan.unreachable_ids.tolist())
    made = [(row, token) for row, token in enumerate(transfer.new_tokens) if token.id not in unreachable]
    assert len(made) > 40
    kinds_of_pieces = set()
    for row, token in made:
        expected: dict[int, float] = {}
        pieces = transfer.pieces[row].tolist()
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
