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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.threads import in_threads, one_thread

LOG = logging.getLogger(__name__)

GROUP = 32
"""Atoms whose highest score is found first; groups that cannot hold the best atom are not looked into."""
BLOCK = 4096
"""Atoms per integer product at most: its result stays in the processor's cache until it has been reduced."""
CLIP = 4.5
"""Entries of atoms beyond so many standard deviations are cut off: most precise for normally distributed ones."""
CROWDED = 0.125
"""Share of groups that hold candidates beyond which a residual is compared with all atoms, or all of a block."""
ENDLESS = 0.125
"""Share of atoms beyond which so many are equally near that what is computed in one product for all is good enough."""
TOGETHER = 8
"""Vectors that are compared with all atoms of a block at a time, at least: its atoms are gathered for them."""
FEW, MANY = 64, 256
"""Vectors that a thread compares with all atoms at a time: with fewer, products take up to twice as long."""
MEMORY = 1 << 29
"""Bytes of scores in all threads together, about."""
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
    similar length share a scale. Those of the same length stay in their order: callers often have similar atoms side
    by side, which are then in the same groups and blocks.

    Residuals are cut into parts, one for each thread. Threads that shared one product would wait for each other
    after each of its blocks: beside other busy processes that took seven times the processor time.
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
        by_length = _roughly_descending(atoms_SD.norm(dim=1))
        self._rounded: list[Tensor] = []
        orders, scales, errors, lengths = [], [], [], []
        for places in by_length.split(self._block):  # type: ignore[no-untyped-call]
            rotated = atoms_SD[places] @ self._rotation_DD
            longest = float(atoms_SD[places].norm(dim=1).max())
            scale = CLIP * longest / math.sqrt(width) / 127 or 1.0
            rounded = _round(rotated / scale)
            restored = rounded.float() * scale
            error = (rotated - restored).norm(dim=1)
            # Atoms with large rounding errors together, so that few groups have a loose bound.
            order = _roughly_descending(error)
            padding = (0, self._block - len(places))
            self._rounded.append(torch.nn.functional.pad(rounded[order], (0, 0, *padding)))
            orders.append(torch.nn.functional.pad(places[order], padding, value=-1))
            errors.append(torch.nn.functional.pad(error[order], padding).view(-1, GROUP).amax(dim=1))
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
        self._float_error = width * torch.finfo(torch.float32).eps * float(atoms_SD.norm(dim=1).max())
        """How far two float32 products of an atom with a unit vector can be apart, summed in different orders."""
        self._most = ENDLESS * num_atoms
        self._free_memory: list[Tensor] = []
        """For scores. Kept from call to call: fresh memory costs as much time as a third of the products."""
        _warn_of_beta_once()

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        return self._in_parts(self._best, residuals_BD)

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `Search`. Of equally high ones the first comes first."""
        return self._in_parts(partial(self._top, k=k), vectors_BD)

    def _in_parts(self, search: Callable[[Tensor], tuple[Tensor, Tensor]], vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Search for parts of the vectors, in as many threads as torch has and memory allows."""
        padded = 4 * self._block * len(self._rounded)
        num_threads = max(1, min(torch.get_num_threads(), MEMORY // (FEW * padded)))
        share = -(-len(vectors_BD) // num_threads)
        size = min(max(share, FEW), MANY, max(FEW, MEMORY // (num_threads * padded)))
        parts = vectors_BD.split(size)  # type: ignore[no-untyped-call]
        found = in_threads(search, parts, num_threads)
        places, products = zip(*found, strict=True)
        return torch.cat(places), torch.cat(products)

    def _best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        num_residuals, all_B = len(residuals_BD), torch.arange(len(residuals_BD))
        with self._score(residuals_BD, both_signs=True) as scored:
            # The atom with the highest score, to know how good the best is at least.
            group = scored.products_BG.argmax(dim=1)
            lane = scored.of_groups(all_B, group).argmax(dim=1)
            first = self._order[group * GROUP + lane].clamp(min=0)
            known_B = (residuals_BD * self._atoms_SD[first]).sum(dim=1).abs()

            candidate_BG = scored.reach(known_B)
            crowded_B = candidate_BG.sum(dim=1) > max(CROWDED * candidate_BG.shape[1], GROUP)
            candidate_BG[crowded_B] = False
            owner, places = self._atoms_of(*scored.inside(candidate_BG, known_B))
        counts = torch.bincount(owner, minlength=num_residuals)
        products = inner_products(residuals_BD, self._atoms_SD, counts, places)
        best, signed = _first_highest(owner, places, products, num_residuals, len(self._atoms_SD))
        if crowded_B.any():
            best[crowded_B], signed[crowded_B] = self._best_of_all(residuals_BD[crowded_B])
        return best, signed

    def _best_of_all(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Compare with all atoms, and once more, in the usual order of summation, with those that could be the best."""
        products_BS = (residuals_BD @ self._atoms_SD.T).abs_()
        highest_B, places_B = products_BS.max(dim=1)
        errors_B = self._float_error * residuals_BD.norm(dim=1)
        near_BS = products_BS >= (highest_B - 2 * errors_B)[:, None]
        endless = (near_BS.sum(dim=1) > self._most).nonzero().flatten()
        near_BS[endless] = False
        near_BS[endless, places_B[endless]] = True
        owner, places = near_BS.nonzero(as_tuple=True)
        counts = torch.bincount(owner, minlength=len(residuals_BD))
        products = inner_products(residuals_BD, self._atoms_SD, counts, places)
        return _first_highest(owner, places, products, len(residuals_BD), len(self._atoms_SD))

    def _top(self, vectors_BD: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        num_vectors = len(vectors_BD)
        with self._score(vectors_BD, both_signs=False) as scored:
            known_B = self._known(vectors_BD, scored, k)
            candidate_BG = scored.reach(known_B)
            in_blocks, known_B, endless_B = self._crowded_blocks(vectors_BD, candidate_BG, known_B, k)
            candidate_BG[endless_B] = False
            elsewhere = self._atoms_of(*scored.inside(candidate_BG, known_B))
        owner, places = (torch.cat(both) for both in zip(elsewhere, in_blocks, strict=True))
        if endless_B.all():
            return self._dense.top(vectors_BD, k)
        owner, order = owner.sort(stable=True)
        places, counts = places[order], torch.bincount(owner, minlength=num_vectors)
        products = inner_products(vectors_BD, self._atoms_SD, counts, places)
        found, values = _highest(counts, places, products, k)
        if endless_B.any():
            found[endless_B], values[endless_B] = self._dense.top(vectors_BD[endless_B], k)
        return found, values

    def _known(self, vectors_BD: Tensor, scored: _Scored, k: int) -> Tensor:
        """A lower bound of the k-th highest product, float32 [B]: the k-th highest with some promising atoms.

        These are, of the groups with the highest scores, the atoms with the highest scores.
        """
        num_vectors, num_groups = scored.products_BG.shape
        if num_groups < k:
            return vectors_BD.new_full((num_vectors,), -torch.inf)
        num_promising = min(2 * k, num_groups)
        groups_Bg = scored.products_BG.topk(num_promising, dim=1).indices
        owner, groups = torch.arange(num_vectors).repeat_interleave(num_promising), groups_Bg.flatten()
        products = (scored.of_groups(owner, groups) * self._scales_G[groups, None]).view(num_vectors, -1)
        lanes_Bg = products.topk(num_promising, dim=1).indices
        places_Bg = self._order[groups_Bg.gather(1, lanes_Bg // GROUP) * GROUP + lanes_Bg % GROUP]
        counts = torch.full((num_vectors,), num_promising)
        exact = inner_products(vectors_BD, self._atoms_SD, counts, places_Bg.flatten().clamp(min=0))
        exact[places_Bg.flatten() < 0] = -torch.inf
        return exact.view(num_vectors, num_promising).topk(k, dim=1).values[:, -1]

    def _crowded_blocks(
        self, vectors_BD: Tensor, candidate_BG: Tensor, known_B: Tensor, k: int
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Compare the vectors for which many groups of a block are candidates with all of its atoms, in float32.

        Some atoms, such as those of rare characters, are nearer to each other than integers can tell.

        Args:
            vectors_BD: float32.
            candidate_BG: bool; the groups that are compared here are set to False.
            known_B: float32; lower bounds of the k-th highest products.
            k: number of atoms that are wanted.

        Returns:
            vectors and places of the atoms that could be among their k highest, int64 both; better bounds, float32
            [B]; vectors with endless numbers of these atoms, bool [B], which are left out.
        """
        num_vectors, per_block = len(vectors_BD), self._block // GROUP
        crowded_Bb = candidate_BG.view(num_vectors, -1, per_block).sum(dim=2) > CROWDED * per_block
        many_B1 = candidate_BG.sum(dim=1, keepdim=True) > CROWDED * candidate_BG.shape[1]
        crowded_Bb &= (crowded_Bb.sum(dim=0) >= TOGETHER) | many_B1
        compared, highest_Bk = [], vectors_BD.new_full((num_vectors, k), -torch.inf)
        for n in crowded_Bb.any(dim=0).nonzero().flatten().tolist():
            owner = crowded_Bb[:, n].nonzero().flatten()
            candidate_BG[owner, n * per_block : (n + 1) * per_block] = False
            places = self._order[n * self._block : (n + 1) * self._block]
            places = places[places >= 0]
            products = vectors_BD[owner] @ self._atoms_SD[places].T
            highest = torch.cat([highest_Bk[owner], products.topk(min(k, len(places)), dim=1).values], dim=1)
            highest_Bk[owner] = highest.topk(k, dim=1).values
            compared.append((owner, places, products))
        errors_B = self._float_error * vectors_BD.norm(dim=1)
        known_B = torch.maximum(known_B, highest_Bk[:, -1] - errors_B)
        counts_B = torch.zeros(num_vectors, dtype=torch.int64)
        for owner, _, products in compared:
            counts_B[owner] += (products >= (known_B - errors_B)[owner, None]).sum(dim=1)
        endless_B = counts_B > max(self._most, k)
        owners, found = [counts_B.new_empty(0)], [counts_B.new_empty(0)]
        for owner, places, products in compared:
            inside = products >= torch.where(endless_B, torch.inf, known_B - errors_B)[owner, None]
            pair, atom = inside.nonzero(as_tuple=True)
            owners.append(owner[pair])
            found.append(places[atom])
        return (torch.cat(owners), torch.cat(found)), known_B, endless_B

    @contextmanager
    def _score(self, vectors_BD: Tensor, *, both_signs: bool) -> Iterator[_Scored]:
        """Integer products with all atoms; with `both_signs`, low ones count as much as high ones."""
        num_vectors, num_blocks = len(vectors_BD), len(self._rounded)
        groups_per_block = self._block // GROUP
        rotated = vectors_BD @ self._rotation_DD
        scales_B = (rotated.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = _round(rotated / scales_B[:, None])
        errors_B = (rotated - rounded.float() * scales_B[:, None]).norm(dim=1)
        memory = self._take_memory(num_vectors * num_blocks * self._block)
        scores_bBgl = memory[: num_vectors * num_blocks * self._block].view(num_blocks, num_vectors, -1, GROUP)
        peaks_BG = torch.empty((num_vectors, num_blocks * groups_per_block), dtype=torch.int32)
        for n, atoms in enumerate(self._rounded):
            torch._int_mm(rounded, atoms.T, out=scores_bBgl[n].view(num_vectors, self._block))
            part = peaks_BG[:, n * groups_per_block : (n + 1) * groups_per_block]
            torch.amax(scores_bBgl[n], dim=2, out=part)
            if both_signs:
                torch.maximum(part, -scores_bBgl[n].amin(dim=2), out=part)
        products_BG = (peaks_BG * self._scales_G).mul_(scales_B[:, None])
        try:
            yield _Scored(
                scores_bBgl,
                products_BG,
                scales_B,
                self._scales_G,
                errors_B,
                self._lengths_G,
                vectors_BD.norm(dim=1),
                self._errors_G,
                both_signs,
            )
        finally:
            self._free_memory.append(memory)

    def _take_memory(self, size: int) -> Tensor:
        """Room for so many scores, int32 [size or more]. Threads share the list: what one takes, no other has."""
        try:
            memory = self._free_memory.pop()
        except IndexError:
            memory = torch.empty(0, dtype=torch.int32)
        return memory if len(memory) >= size else torch.empty(size, dtype=torch.int32)

    def _atoms_of(self, owner: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Places of atoms, given where they are in the blocks, and whom they are for; without what fills up."""
        places = self._order[positions]
        return owner[places >= 0], places[places >= 0]


@dataclass(frozen=True)
class _Scored:
    """Integer products of vectors with atoms, b blocks of g groups of l atoms, and what they can say."""

    scores_bBgl: Tensor
    """int32"""
    products_BG: Tensor
    """float32: the highest score of each group, in units of the product; the highest absolute one for both signs."""
    scales_B: Tensor
    scales_G: Tensor
    """float32: the product of both is what a score is worth."""
    errors_B: Tensor
    lengths_G: Tensor
    norms_B: Tensor
    errors_G: Tensor
    """float32: a product differs from what its score is worth by at most ``errors_B lengths_G + norms_B errors_G``."""
    both_signs: bool

    def of_groups(self, owner: Tensor, group: Tensor) -> Tensor:
        """Scores of the atoms of one group for each of some vectors, int32 [len(owner), l]; absolute for both signs."""
        per_block = self.scores_bBgl.shape[2]
        scores = self.scores_bBgl[group // per_block, owner, group % per_block]
        return scores.abs() if self.both_signs else scores

    def reach(self, known_B: Tensor) -> Tensor:
        """Which groups could hold an atom with a product as high as a known one, bool [B, G]."""
        upper_BG = torch.addr(self.products_BG, self.errors_B * (1 + SLACK), self.lengths_G)
        upper_BG.addr_(self.norms_B * (1 + SLACK), self.errors_G)
        return upper_BG >= _surely(known_B)[:, None]

    def inside(self, candidate_BG: Tensor, known_B: Tensor) -> tuple[Tensor, Tensor]:
        """The atoms of the candidate groups that could have so high a product: vectors and positions in the blocks."""
        owner, group = candidate_BG.nonzero(as_tuple=True)
        bounds = self.errors_B[owner] * self.lengths_G[group] + self.norms_B[owner] * self.errors_G[group]
        needed = _surely(known_B)[owner] - bounds * (1 + SLACK)
        products = self.of_groups(owner, group) * (self.scales_B[owner] * self.scales_G[group])[:, None]
        pair, lane = (products >= needed[:, None]).nonzero(as_tuple=True)
        return owner[pair], group[pair] * GROUP + lane


def _surely(known_B: Tensor) -> Tensor:
    return known_B - known_B.abs() * SLACK


def _roughly_descending(sizes: Tensor) -> Tensor:
    """The order from the largest to the smallest, where sizes within a tenth or so stay in their order; int64."""
    steps = sizes.clamp(min=torch.finfo(torch.float32).tiny).log() / math.log(1.1)
    return steps.round().argsort(descending=True, stable=True)


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
    _warn_of_beta_once()
    starts = torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])
    # Nothing else gathers rows and multiplies them in one pass.
    shape = (len(vectors_BD), len(atoms_SD))
    pattern = torch.sparse_csr_tensor(starts, places, vectors_BD.new_zeros(len(places)), shape, check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(pattern, vectors_BD, atoms_SD.T, beta=0.0).values()
    return found


@cache
def _warn_of_beta_once() -> None:
    """Let torch say, unheard, that compressed rows are in beta, which it says once; filters do not suit threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.eye(1).to_sparse_csr()


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
