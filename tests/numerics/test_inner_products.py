"""Which atoms have the highest inner products: the screen against the plain search."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from atoms import embedding_like, normal
from hypothesis import given, settings, strategies

from mergekit_tokenadapt.numerics import inner_products
from mergekit_tokenadapt.numerics.inner_products import DenseSearch, ScreenedSearch


@pytest.mark.parametrize(
    "atoms",
    [
        normal(1000, 32),
        embedding_like(1000, 32, 4),
        normal(1000, 32) * torch.logspace(-4, 3, 1000)[:, None],
        torch.cat([normal(500, 32)] * 2),
        torch.cat([torch.zeros(3, 32), normal(150, 32), torch.zeros(847, 32)]),
        normal(1000, 8) @ normal(8, 32),
        normal(2, 32),
        torch.zeros(5, 32),
    ],
    ids=["normal", "like embeddings", "of all lengths", "twice", "mostly zero", "rank 8", "two", "zero"],
)
def test_the_screen_lets_nothing_slip(small_blocks, atoms):
    residuals = torch.cat([embedding_like(200, 32, 5), normal(50, 32) * 1e-6, torch.zeros(1, 32), atoms[:2]])
    for (place, product), residual in zip(
        zip(*ScreenedSearch(atoms).best(residuals), strict=True), residuals, strict=True
    ):
        products = (atoms.double() @ residual.double()).abs()
        assert float(product) == pytest.approx(float(atoms[place] @ residual), rel=1e-4, abs=1e-9)
        # In float32, as the plain search: equal ones may change places.
        assert float(products[place]) >= float(products.max()) * (1 - 1e-6) - 1e-6 * float(residual.norm())


def test_of_equal_atoms_the_first_is_taken(small_blocks):
    atoms = normal(300, 32).repeat(2, 1)
    for kind in (DenseSearch, ScreenedSearch):
        assert int(kind(atoms).best(normal(100, 32, seed=1))[0].max()) < 300


@pytest.mark.parametrize(("pay", "kind"), [(True, ScreenedSearch), (False, DenseSearch)])
def test_atoms_are_screened_where_integer_products_pay(monkeypatch, pay, kind):
    monkeypatch.setattr(inner_products, "integer_products_pay", lambda: pay)
    assert isinstance(inner_products.choose_search(normal(inner_products.BLOCK, 16)), kind)
    assert isinstance(inner_products.choose_search(normal(inner_products.BLOCK - 1, 16)), DenseSearch)


@pytest.mark.parametrize("k", [1, 3, 32])
@pytest.mark.parametrize(
    "atoms",
    [
        normal(1000, 32),
        embedding_like(1000, 32, 4),
        torch.cat([normal(500, 32)] * 2),
        torch.cat([torch.zeros(3, 32), normal(150, 32), torch.zeros(847, 32)]),
        normal(32, 32),
        -normal(1000, 32).abs(),
    ],
    ids=["normal", "like embeddings", "twice", "mostly zero", "as many as asked for", "all negative"],
)
def test_the_highest_products_are_those_of_the_plain_search(small_blocks, atoms, k):
    vectors = torch.cat([embedding_like(200, 32, 5), normal(50, 32) * 1e-6, torch.zeros(1, 32), atoms[:2]])
    places, products = ScreenedSearch(atoms).top(vectors, k)
    _, expected = DenseSearch(atoms).top(vectors, k)
    scale = vectors.norm(dim=1, keepdim=True) * atoms.norm(dim=1).max()
    assert ((products - expected).abs() <= 1e-6 * scale).all()
    assert ((products - (atoms[places] * vectors[:, None]).sum(2)).abs() <= 1e-6 * scale).all()
    assert (places.sort(dim=1).values.diff(dim=1) > 0).all(), "no atom twice"


def test_of_equally_near_atoms_the_first_come_first(small_blocks):
    atoms = normal(300, 32).repeat(3, 1)
    places, _ = ScreenedSearch(atoms).top(normal(100, 32, seed=1), 3)
    assert torch.equal(places, places[:, :1] + torch.tensor([0, 300, 600]))


def atoms_to_search(kind: str, num_atoms: int, seed: int) -> torch.Tensor:
    """Atoms that are hard to tell apart, or that a screen could lose."""
    atoms = normal(num_atoms, 24, seed=seed)
    if kind == "of all lengths":
        return atoms * torch.logspace(-3, 3, num_atoms)[:, None]
    if kind == "nearly the same":
        return torch.nn.functional.normalize(normal(24, seed=seed + 1) + 0.003 * atoms, dim=1)
    if kind == "some the same":
        return atoms[torch.arange(num_atoms) % max(1, num_atoms // 20)]
    if kind == "whole numbers":
        return atoms.round()
    if kind == "some zero":
        return atoms * (torch.arange(num_atoms) % 3 > 0)[:, None]
    return torch.nn.functional.normalize(atoms, dim=1)


KINDS = ("unit", "of all lengths", "nearly the same", "some the same", "whole numbers", "some zero")


def plain_top(vectors: torch.Tensor, atoms: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Products with all atoms, sorted; equal ones by place."""
    counts = torch.full((len(vectors),), len(atoms))
    everything = torch.arange(len(atoms)).repeat(len(vectors))
    products = inner_products.inner_products(vectors, atoms, counts, everything).view(len(vectors), -1)
    values, places = products.sort(dim=1, descending=True, stable=True)
    return places[:, :k], values[:, :k]


cases = given(
    kind=strategies.sampled_from(KINDS),
    num_atoms=strategies.integers(1, 700),
    num_vectors=strategies.integers(1, 40),
    k=strategies.integers(1, 40),
    seed=strategies.integers(0, 1000),
    num_threads=strategies.sampled_from([1, 3]),
)


@contextmanager
def many_parts(num_threads: int) -> Iterator[None]:
    """Several parts, blocks and groups for a few hundred atoms."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"BLOCK": 128, "GROUP": 8, "FEW": 4, "MANY": 16, "ENDLESS": 1.0}.items():
            patched.setattr(inner_products, name, value)
        torch.set_num_threads(num_threads)
        try:
            yield
            assert torch.get_num_threads() == num_threads
        finally:
            torch.set_num_threads(before)


def vectors_near(atoms: torch.Tensor, num_vectors: int, seed: int) -> torch.Tensor:
    near = atoms[torch.arange(num_vectors) * 7 % len(atoms)]
    return near + 0.1 * near.norm(dim=1, keepdim=True) * normal(num_vectors, 24, seed=seed)


@settings(max_examples=100)
@cases
def test_the_highest_products_are_exactly_those_of_all_sorted(kind, num_atoms, num_vectors, k, seed, num_threads):
    atoms, k = atoms_to_search(kind, num_atoms, seed), min(k, num_atoms)
    vectors = vectors_near(atoms, num_vectors, seed + 2)
    with many_parts(num_threads):
        places, products = ScreenedSearch(atoms).top(vectors, k)
    expected_places, expected_products = plain_top(vectors, atoms, k)
    assert torch.equal(products, expected_products)
    assert torch.equal(places, expected_places)


@settings(max_examples=100)
@cases
def test_the_best_is_exactly_the_first_with_the_highest_product(kind, num_atoms, num_vectors, k, seed, num_threads):
    atoms = atoms_to_search(kind, num_atoms, seed)
    vectors = vectors_near(atoms, num_vectors, seed + 2) * (-1) ** k
    with many_parts(num_threads):
        places, products = ScreenedSearch(atoms).best(vectors)
    all_places, all_products = (part.numpy() for part in plain_top(vectors, atoms, num_atoms))
    for n, (row_places, row) in enumerate(zip(all_places, all_products, strict=True)):
        first = min(place for place, size in zip(row_places, abs(row), strict=True) if size == abs(row).max())
        assert int(places[n]) == first
        assert float(products[n]) == row[list(row_places).index(first)]


@pytest.mark.parametrize("num_zero", [1, 60], ids=["one", "many"])
def test_a_vector_to_which_too_many_atoms_are_equally_near_is_compared_with_all(small_blocks, monkeypatch, num_zero):
    atoms = normal(1000, 32)
    compared = []
    dense_top = DenseSearch.top

    def spied(self, vectors, k):
        compared.append(len(vectors))
        return dense_top(self, vectors, k)

    monkeypatch.setattr(DenseSearch, "top", spied)
    vectors = torch.cat([torch.zeros(num_zero, 32), normal(50, 32, seed=1)])
    places, products = ScreenedSearch(atoms).top(vectors, 5)
    assert compared == [num_zero]
    assert not products[:num_zero].any()
    expected_places, expected_products = plain_top(vectors[num_zero:], atoms, 5)
    assert torch.equal(places[num_zero:], expected_places)
    assert torch.equal(products[num_zero:], expected_products)
