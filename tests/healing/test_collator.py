"""What a training step is given: each token is predicted from those before it, and other rows are sampled."""

import torch

from mergekit_tokenadapt.healing.collator import Collator, rows_to_train
from mergekit_tokenadapt.healing.targets import TaughtPassage
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows

ROWS, START = 40, 1


def passage(number, ids, targets):
    """`targets` holds (token, probability) pairs for each position."""
    triplets = [(row, token, share) for row, pairs in enumerate(targets) for token, share in pairs]
    rows, tokens, shares = (torch.tensor(column) for column in zip(*triplets, strict=True))
    made = SparseRows.from_triplets(rows, tokens, shares, len(ids))
    return TaughtPassage(number, torch.tensor(ids), made.indptr, made.ids.int(), made.weights.half())


PASSAGES = [
    passage(0, [7, 9, 7], [[(7, 0.5), (20, 0.4)], [], [(7, 0.9), (33, 0.01)]]),
    passage(1, [12, 13], [[(12, 1.0)], [(13, 0.6), (9, 0.2)]]),
]


def test_rows_that_the_text_says_something_about_are_trained():
    assert rows_to_train(PASSAGES, START, ROWS).tolist() == [START, 7, 9, 12, 13, 20]  # 33 is too unlikely


def test_a_step():
    trained = rows_to_train(PASSAGES, START, ROWS)
    collator = Collator(trained=trained, num_rows=ROWS, start=START, seed=0, sampled=5)
    step = collator(PASSAGES)
    assert trained[step["input_ids"]].tolist() == [[START, 7, 9], [START, 12, START]]
    assert step["positions"].tolist() == [0, 2, 3, 4]
    assert step["indptr"].tolist() == [0, 2, 3, 4, 6]
    assert trained[step["columns"]].tolist() == [7, 20, 7, 12, 9, 13]
    torch.testing.assert_close(step["weights"], torch.tensor([0.5, 0.4, 0.9, 1.0, 0.2, 0.6]), rtol=1e-3, atol=0)
    others = set(step["others"].tolist())
    assert len(others) == 5
    assert not others & set(trained.tolist())
    again = collator(PASSAGES)
    assert all(torch.equal(step[name], again[name]) for name in step)
    assert others != set(collator(PASSAGES[:1])["others"].tolist())


def test_the_token_that_follows_gets_its_share():
    trained = rows_to_train(PASSAGES, START, ROWS)
    step = Collator(trained=trained, num_rows=ROWS, start=START, seed=0, text_share=0.25)(PASSAGES)
    assert step["positions"].tolist() == [0, 2, 3, 4]
    assert trained[step["columns"]].tolist() == [7, 20, 7, 12, 9, 13]
    expected = [0.75 * 0.5 + 0.25, 0.75 * 0.4, 0.75 * 0.9 + 0.25, 1.0, 0.75 * 0.2, 0.75 * 0.6 + 0.25]
    torch.testing.assert_close(step["weights"], torch.tensor(expected), rtol=1e-3, atol=0)


def test_a_token_that_the_target_does_not_name_gets_the_share_alone():
    one = passage(0, [7, 9], [[(20, 0.8)], [(9, 1.0)]])
    step = Collator(trained=torch.tensor([START, 7, 9, 20]), num_rows=ROWS, start=START, seed=0, text_share=0.5)([one])
    assert step["columns"].tolist() == [1, 3, 2]
    torch.testing.assert_close(step["weights"], torch.tensor([0.5, 0.4, 1.0]), rtol=1e-3, atol=0)


def test_all_other_rows_where_there_are_few():
    trained = rows_to_train(PASSAGES, START, ROWS)
    others = Collator(trained=trained, num_rows=ROWS, start=START, seed=0)(PASSAGES)["others"]
    assert sorted([*others.tolist(), *trained.tolist()]) == list(range(ROWS))
