"""The costly step of matching pursuit: which of many atoms correlates most with each residual?

Done plainly it is one float32 product of all residuals with all atoms, in every step. `ScreenedSearch` makes that
product in 8-bit integers, which is four times as fast where the processor has instructions for it, and looks again,
in float32, only at those atoms that could be the best one for all that the rounding to integers can have done. The
answer is that of the plain search: nothing is approximated, see `ScreenedSearch`.

Letters: B vectors (residuals), S atoms, D width of an atom, b blocks of atoms, G groups of atoms, l atoms of a group.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.threads import one_thread

LOG = logging.getLogger(__name__)

GROUP = 32
"""Atoms whose highest score is found first; groups that cannot hold the best atom are not looked into."""
BLOCK = 4096
"""Atoms per integer product at most: its result stays in the processor's cache until it has been reduced."""
CLIP = 4.5
"""Entries of atoms beyond so many standard deviations are cut off: most precise for normally distributed ones."""
CROWDED = 0.125
"""Share of groups that hold candidates beyond which a residual is compared with all atoms."""
SLACK = 1e-3
"""Relative; the bounds are computed in float32, too."""


class Search(Protocol):
    """Finds atoms by their correlation."""

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The atom with the highest absolute inner product with each residual, the first of equal ones.

        Returns:
            places of atoms, int64 [B]; inner products with their signs, float32 [B].
        """

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k atoms with the highest inner products with each vector, the highest first.

        Returns:
            places of atoms, int64 [B, k]; inner products, float32 [B, k].
        """


class DenseSearch:
    """Compare every residual with every atom, in float32."""

    def __init__(self, atoms_SD: Tensor) -> None:
        self._atoms_SD = atoms_SD

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        products_BS = residuals_BD @ self._atoms_SD.T
        places = products_BS.abs().argmax(dim=1)
        return places, products_BS.gather(1, places[:, None]).flatten()

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        products_Bk, places_Bk = (vectors_BD @ self._atoms_SD.T).topk(k, dim=1)
        return places_Bk, products_Bk


class ScreenedSearch:
    """Compare residuals with atoms in 8-bit integers, and with the few that could be best in float32.

    Residual r and atom a are rounded to r' and a', multiples of a scale. By the triangle and the Cauchy-Schwarz
    inequality ``|<r, a> - <r', a'>| <= |r| |a - a'| + |r - r'| |a'|``, where all norms are known, since the rounded
    vectors are. The product <r', a'> is exact in integers. Let b be the atom with the highest integer score: an atom
    whose score is lower than |<r, b>| by more than the bound cannot be better than b, and is not looked at.

    Both are rotated by the same random rotation before they are rounded. That changes no inner product, and spreads
    directions in which all rows are large over all coordinates: rounding errors get as small as they can. Atoms of
    similar length share a scale.
    """

    def __init__(self, atoms_SD: Tensor) -> None:
        num_atoms, width = atoms_SD.shape
        self._atoms_SD = atoms_SD
        self._dense = DenseSearch(atoms_SD)
        generator = torch.Generator().manual_seed(0)
        with one_thread():
            self._rotation_DD = torch.linalg.qr(torch.randn((width, width), generator=generator))[0]
        num_blocks = -(-num_atoms // BLOCK)
        self._block = -(-num_atoms // (num_blocks * GROUP)) * GROUP
        by_length = atoms_SD.norm(dim=1).argsort(descending=True, stable=True)
        self._rounded: list[Tensor] = []
        orders, scales, errors, lengths = [], [], [], []
        for places in by_length.split(self._block):
            rotated = atoms_SD[places] @ self._rotation_DD
            scale = CLIP * float(atoms_SD[places[0]].norm()) / math.sqrt(width) / 127 or 1.0
            rounded = _round(rotated / scale)
            restored = rounded.float() * scale
            # Atoms with large rounding errors together, so that few groups have a loose bound.
            error, order = (rotated - restored).norm(dim=1).sort(descending=True, stable=True)
            padding = (0, self._block - len(places))
            self._rounded.append(torch.nn.functional.pad(rounded[order], (0, 0, *padding)))
            orders.append(torch.nn.functional.pad(places[order], padding, value=-1))
            errors.append(torch.nn.functional.pad(error, padding)[::GROUP])
            scales.append(scale)
            lengths.append(restored.norm(dim=1).max())
        self._order = torch.cat(orders)
        """int64: the atoms as they are blocked; -1 where the last block is filled up."""
        groups = self._block // GROUP
        self._scales_G = torch.tensor(scales).repeat_interleave(groups)
        self._lengths_G = torch.stack(lengths).repeat_interleave(groups)
        """Of the longest rounded atom."""
        self._errors_G = torch.cat(errors)
        """Of the least well rounded atom."""
        self._scores = torch.empty((num_blocks, 0, self._block), dtype=torch.int32)

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        num_residuals, all_B = len(residuals_BD), torch.arange(len(residuals_BD))
        scored = self._score(residuals_BD)
        highest_BG = torch.maximum(scored.highest_BG, -scored.lowest_BG)

        # The atom with the highest score, to know how good the best is at least.
        group = (highest_BG * self._scales_G).argmax(dim=1)
        lane = scored.of_groups(all_B, group).abs().argmax(dim=1)
        first = self._order[group * GROUP + lane].clamp(min=0)
        known_B = (residuals_BD * self._atoms_SD[first]).sum(dim=1).abs()

        needed_BG = scored.needed(known_B)
        owner, group, crowded_B = _not_crowded(highest_BG >= needed_BG)
        inside = scored.of_groups(owner, group).abs() >= needed_BG[owner, group][:, None]
        counts, places, products = self._look_again(residuals_BD, owner, group, inside)
        owner = torch.repeat_interleave(counts)
        best, signed = _first_highest(owner, places, products, num_residuals, len(self._atoms_SD))
        if crowded_B.any():
            best[crowded_B], signed[crowded_B] = self._dense.best(residuals_BD[crowded_B])
        return best, signed

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        all_B1 = torch.arange(len(vectors_BD))[:, None]
        scored = self._score(vectors_BD)

        # The best atoms of the best groups, to know how good the k-th best is at least.
        num_groups = min(2 * k, scored.highest_BG.shape[1])
        group_Bg = (scored.highest_BG * self._scales_G).topk(num_groups, dim=1).indices
        owner = all_B1.expand_as(group_Bg).flatten()
        lane = scored.of_groups(owner, group_Bg.flatten()).argmax(dim=1)
        first = self._order[group_Bg.flatten() * GROUP + lane]
        counts = torch.full((len(vectors_BD),), num_groups)
        known = inner_products(vectors_BD, self._atoms_SD, counts, first.clamp(min=0))
        known[first < 0] = -torch.inf
        known_B = known.view(-1, num_groups).topk(min(k, num_groups), dim=1).values[:, -1]
        known_B[num_groups < k] = -torch.inf

        needed_BG = scored.needed(known_B)
        owner, group, crowded_B = _not_crowded(scored.highest_BG >= needed_BG)
        inside = scored.of_groups(owner, group) >= needed_BG[owner, group][:, None]
        counts, places, products = self._look_again(vectors_BD, owner, group, inside)
        if crowded_B.all():
            return self._dense.top(vectors_BD, k)
        found, values = _highest(counts, places, products, k)
        if crowded_B.any():
            found[crowded_B], values[crowded_B] = self._dense.top(vectors_BD[crowded_B], k)
        return found, values

    def _score(self, vectors_BD: Tensor) -> _Scored:
        """Integer products with all atoms."""
        num_vectors, num_blocks = len(vectors_BD), len(self._rounded)
        groups_per_block = self._block // GROUP
        rotated = vectors_BD @ self._rotation_DD
        scales_B = (rotated.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = _round(rotated / scales_B[:, None])
        errors_B = (rotated - rounded.float() * scales_B[:, None]).norm(dim=1)
        bounds_BG = torch.outer(errors_B, self._lengths_G) + torch.outer(vectors_BD.norm(dim=1), self._errors_G)

        # Kept from step to step: fresh memory costs as much time as a third of the products.
        if self._scores.shape[1] != num_vectors:
            self._scores = torch.empty((num_blocks, num_vectors, self._block), dtype=torch.int32)
        scores = self._scores
        highest_BG = torch.empty((num_vectors, num_blocks * groups_per_block), dtype=torch.int32)
        lowest_BG = torch.empty_like(highest_BG)
        for n, atoms in enumerate(self._rounded):
            torch._int_mm(rounded, atoms.T, out=scores[n])
            grouped = scores[n].view(num_vectors, groups_per_block, GROUP)
            part = slice(n * groups_per_block, (n + 1) * groups_per_block)
            torch.amax(grouped, dim=2, out=highest_BG[:, part])
            torch.amin(grouped, dim=2, out=lowest_BG[:, part])
        scores_bBgl = scores.view(num_blocks, num_vectors, groups_per_block, GROUP)
        return _Scored(scores_bBgl, highest_BG, lowest_BG, bounds_BG, torch.outer(scales_B, self._scales_G))

    def _look_again(
        self, vectors_BD: Tensor, owner: Tensor, group: Tensor, inside: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates' places and exact products, sorted by vector, and how many there are of each."""
        pair, lane = inside.nonzero(as_tuple=True)
        owner, places = owner[pair], self._order[group[pair] * GROUP + lane]
        owner, places = owner[places >= 0], places[places >= 0]
        counts = torch.bincount(owner, minlength=len(vectors_BD))
        return counts, places, inner_products(vectors_BD, self._atoms_SD, counts, places)


@dataclass(frozen=True)
class _Scored:
    """Integer products of vectors with atoms, b blocks of g groups of l atoms, and what they can say."""

    scores_bBgl: Tensor
    """int32"""
    highest_BG: Tensor
    """int32: of each group."""
    lowest_BG: Tensor
    """int32"""
    bounds_BG: Tensor
    """float32: how far a product can be from the integer one, times its scale."""
    scales_BG: Tensor
    """float32: what an integer product is worth."""

    def of_groups(self, owner: Tensor, group: Tensor) -> Tensor:
        """Scores of the atoms of one group for each of some vectors, int32 [len(owner), l]."""
        per_block = self.scores_bBgl.shape[2]
        return self.scores_bBgl[group // per_block, owner, group % per_block]

    def needed(self, known_B: Tensor) -> Tensor:
        """The score below which an atom's product is certainly below a known one, float32 [B, G]."""
        sure = known_B - known_B.abs() * SLACK
        return (sure[:, None] - self.bounds_BG * (1 + SLACK)) / self.scales_BG


def _not_crowded(candidate_BG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vector and group of the candidates, and which vectors have too many: they have none here."""
    crowded_B = candidate_BG.sum(dim=1) > max(CROWDED * candidate_BG.shape[1], GROUP)
    candidate_BG[crowded_B] = False
    owner, group = candidate_BG.nonzero(as_tuple=True)
    return owner, group, crowded_B


def choose_search(atoms_SD: Tensor) -> Search:
    """The fastest search that is right on this machine."""
    if atoms_SD.device.type == "cpu" and len(atoms_SD) >= BLOCK and _has_exact_integer_products():
        return ScreenedSearch(atoms_SD)
    return DenseSearch(atoms_SD)


def inner_products(vectors_BD: Tensor, atoms_SD: Tensor, counts_B: Tensor, places: Tensor) -> Tensor:
    """Inner products of each vector with some atoms, float32 [len(places)].

    Args:
        vectors_BD: float32.
        atoms_SD: float32.
        counts_B: int64; how many of `places` belong to each vector.
        places: int64; atoms, all of the first vector first, and so on.
    """
    starts = torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])
    with warnings.catch_warnings():
        # torch calls compressed rows beta. Nothing else gathers rows and multiplies them in one pass.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            starts,
            places,
            vectors_BD.new_zeros(len(places)),
            (len(vectors_BD), len(atoms_SD)),
            check_invariants=False,
        )
        found: Tensor = torch.sparse.sampled_addmm(pattern, vectors_BD, atoms_SD.T, beta=0.0).values()
    return found


def _round(numbers: Tensor) -> Tensor:
    return numbers.round().clamp(-127, 127).to(torch.int8)


def _first_highest(
    owner: Tensor, places: Tensor, products: Tensor, num_owners: int, num_atoms: int
) -> tuple[Tensor, Tensor]:
    """For each owner the place with the highest absolute product, the lowest of equal ones, and the product."""
    sizes = products.abs()
    highest = sizes.new_full((num_owners,), -1.0).scatter_reduce(0, owner, sizes, "amax")
    is_highest = sizes == highest[owner]
    owner, places, products = owner[is_highest], places[is_highest], products[is_highest]
    best = places.new_full((num_owners,), num_atoms).scatter_reduce(0, owner, places, "amin")
    is_best = places == best[owner]
    signed = products.new_zeros(num_owners)
    signed[owner[is_best]] = products[is_best]
    return best.clamp(max=num_atoms - 1), signed


def _highest(counts_B: Tensor, places: Tensor, products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k places with the highest products of each owner, the lowest place of equal ones first: [B, k] both.

    Owners with fewer than k get whatever comes after theirs.
    """
    owner = torch.repeat_interleave(counts_B)
    order = torch.from_numpy(np.lexsort((places.numpy(), -products.numpy(), owner.numpy())))
    starts_B1 = (counts_B.cumsum(0) - counts_B)[:, None]
    first = order[(starts_B1 + torch.arange(k)).clamp(max=len(order) - 1)]
    return places[first], products[first]


def _has_exact_integer_products() -> bool:
    """Whether 8-bit products are there and do not overflow: on some older processors sums of two of them do."""
    signs = torch.tensor([1, -1], dtype=torch.int8).repeat(64)
    rows = torch.stack([signs, signs.abs(), -signs.abs(), signs.roll(1)]).repeat(8, 1) * 127
    try:
        found = torch._int_mm(rows, rows.T.contiguous())
        return torch.equal(found.long(), rows.long() @ rows.long().T)
    except (AttributeError, RuntimeError) as error:
        LOG.debug("no 8-bit products here: %s", error)
        return False
