"""Which atoms have the highest inner products: the screen against the plain search."""

import pytest
import torch
from atoms import embedding_like, normal

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


def test_without_integer_products_the_search_is_dense(monkeypatch):
    atoms = normal(inner_products.BLOCK, 16)
    assert isinstance(inner_products.choose_search(atoms), DenseSearch | ScreenedSearch)
    monkeypatch.delattr(torch, "_int_mm")
    assert isinstance(inner_products.choose_search(atoms), DenseSearch)


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
