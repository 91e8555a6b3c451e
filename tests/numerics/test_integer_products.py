"""Whether 8-bit products are used: only where they are exact and faster than float32."""

import time

import pytest
import torch

from mergekit_tokenadapt.numerics.integer_products import integer_products_pay


@pytest.fixture(autouse=True)
def asked_anew():
    integer_products_pay.cache_clear()
    yield
    integer_products_pay.cache_clear()


def _exact(left, right):
    return (left.float() @ right.float()).to(torch.int32)


def test_exact_and_fast_products_pay(monkeypatch):
    made = {}

    def fast(left, right):  # Each product is computed once: later ones cost nothing.
        key = (left.data_ptr(), right.data_ptr())
        if key not in made:
            made[key] = _exact(left, right)
        return made[key]

    monkeypatch.setattr(torch, "_int_mm", fast)
    assert integer_products_pay()


def test_slow_products_do_not_pay(monkeypatch):
    def slow(left, right):
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
        return _exact(left, right)

    monkeypatch.setattr(torch, "_int_mm", slow)
    assert not integer_products_pay()


def test_products_that_overflow_do_not_pay(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: _exact(left, right).clamp(-32768, 32767))
    assert not integer_products_pay()


def test_without_products_none_pay(monkeypatch):
    monkeypatch.delattr(torch, "_int_mm")
    assert not integer_products_pay()
