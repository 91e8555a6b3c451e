"""Intervals from resampled documents."""

from __future__ import annotations

import numpy as np
import pytest
from scored_texts import document

from mergekit_tokenadapt.evaluation.bootstrap import interval, resample_counts
from mergekit_tokenadapt.evaluation.compare import domain_report


def test_resamples_draw_as_many_documents_as_there_are() -> None:
    counts = resample_counts(7, 50, np.random.default_rng(0))
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == resample_counts(7, 50, np.random.default_rng(0))).all()


def test_interval_is_the_middle_95_percent() -> None:
    assert interval(np.arange(1001)) == pytest.approx([25, 975])


def test_intervals_agree_with_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(1)
    base = [document([float(generator.gamma(2))], [int(n)]) for n in generator.integers(5, 50, size=12)]
    ours = [document([float(d.losses[0]) + 1 + float(generator.normal())], [int(d.ends[-1])]) for d in base]
    counts = resample_counts(12, 300, np.random.default_rng(2))
    report = domain_report(ours, base, counts)
    values = []
    for row in counts:
        drawn = [d for d, times in zip(range(12), row, strict=True) for _ in range(times)]
        bits = sum(ours[d].bits - base[d].bits for d in drawn)
        values.append(bits / sum(ours[d].num_bytes for d in drawn))
    assert report["difference_interval"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    assert report["interval"][0] < report["bits_per_byte"] < report["interval"][1]


def test_one_document_has_no_interval() -> None:
    one = [document([1.0], [4])]
    report = domain_report(one, one, resample_counts(1, 100, np.random.default_rng(0)))
    assert report["interval"] is None
