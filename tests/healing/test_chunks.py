"""ALM's loss against plain versions of its equations."""

import math

import numpy as np
import pytest
import torch

from mergekit_tokenadapt.healing import log_probabilities as module
from mergekit_tokenadapt.healing.chunks import (
    EPSILON,
    LEAST_BOUNDARY,
    TEMPERATURE,
    ChunkedPassage,
    chunk_loss,
    chunks_of,
    joined,
)
from mergekit_tokenadapt.healing.log_probabilities import log_probabilities
from mergekit_tokenadapt.tokenizer.alignment import Encoded

POSITIONS, TRAINED, OTHERS, WIDTH = 7, 11, 5, 4


def tensors():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(POSITIONS, WIDTH, generator=generator, requires_grad=True)
    rows = torch.randn(TRAINED, WIDTH, generator=generator, requires_grad=True)
    others = torch.randn(OTHERS, WIDTH, generator=generator)
    columns = torch.randint(TRAINED, (POSITIONS,), generator=generator)
    boundary = torch.rand(TRAINED + OTHERS, generator=generator) < 0.4
    return states, rows, others, columns, boundary


def plain(states, rows, others, columns, boundary, copies):
    """Each sampled row stands for `copies` rows."""
    logs = (states @ torch.cat([rows, *[others] * copies]).T).log_softmax(1)
    spread = torch.cat([boundary[:TRAINED], *[boundary[TRAINED:]] * copies])
    return logs.gather(1, columns[:, None])[:, 0], logs[:, spread].logsumexp(1)


@pytest.mark.parametrize("copies", [1, 3])
def test_log_probabilities_and_their_gradients(copies, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    states, rows, others, columns, boundary = tensors()
    factors = torch.randn(2, POSITIONS, generator=torch.Generator().manual_seed(1))

    def gradients(found):
        states.grad = rows.grad = None
        (found[0] * factors[0] + found[1] * factors[1]).sum().backward()
        return states.grad, rows.grad

    found = log_probabilities(states, rows, others, num_others=copies * OTHERS, columns=columns, boundary=boundary)
    expected = plain(states, rows, others, columns, boundary, copies)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found), gradients(expected))


def encoded(lengths):
    ends = np.cumsum(lengths)
    return Encoded(np.arange(len(lengths)) % 6, ends)


def test_chunks_end_at_shared_boundaries_where_a_word_is_likely_to_begin():
    old, new = encoded(np.array([2, 3, 1, 4, 2, 2])), encoded(np.array([1, 1, 3, 5, 1, 1, 2]))
    generator = torch.Generator().manual_seed(3)
    states, matrix = torch.randn(6, WIDTH, generator=generator), torch.randn(6, WIDTH, generator=generator)
    boundary = torch.tensor([True, False, False, True, False, False])
    ends, likelihoods = chunks_of(old, new, states, matrix, boundary)

    probabilities = (states @ matrix.T).softmax(1).double().numpy()
    expected_ends, expected = [], []
    product = 1.0
    old_starts = {int(s): n for n, s in enumerate(old.starts)}
    place = 0
    for position, start in enumerate(new.starts):
        if position == 0 or int(start) not in old_starts:
            continue
        here = old_starts[int(start)]
        while place < here:
            product *= probabilities[place, old.ids[place]]
            place += 1
        mass = probabilities[here, [0, 3]].sum()
        if mass > LEAST_BOUNDARY:
            expected_ends.append(position)
            expected.append(math.log(product * mass))
            product = 1.0
    assert len(expected) > 1
    assert ends.tolist() == expected_ends
    torch.testing.assert_close(likelihoods, torch.tensor(expected).float())


def test_the_loss_of_two_passages():
    states, rows, others, _, boundary = tensors()
    place_of = torch.arange(TRAINED)
    passages = [
        ChunkedPassage(0, torch.tensor([3, 1, 4, 2]), torch.tensor([1, 3]), torch.tensor([-1.0, -2.5])),
        ChunkedPassage(1, torch.tensor([5, 9, 0]), torch.tensor([2]), torch.tensor([-4.0])),
    ]
    made = joined(passages, place_of, boundary, 4)
    padded = torch.cat([states, states[:1]])
    loss = chunk_loss(padded, rows, others, num_others=OTHERS, **made)

    logs = (padded @ torch.cat([rows, others]).T).log_softmax(1)
    of_boundary = logs[:, boundary].logsumexp(1)
    sums = [
        logs[0, 3] + of_boundary[1],
        logs[1, 1] + logs[2, 4] + of_boundary[3],
        logs[4, 5] + logs[5, 9] + of_boundary[6],
    ]
    total = 0.0
    for predicted, wanted in zip(sums, [-1.0, -2.5, -4.0], strict=True):
        p, q = math.exp(wanted / TEMPERATURE - EPSILON), float(torch.exp(predicted / TEMPERATURE - EPSILON))
        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
    assert float(loss) == pytest.approx(total / 3, rel=1e-4)
