"""Find the atom with the highest inner product with each residual. This is the costly step of matching pursuit.

The plain search computes one float32 product of all residuals with all atoms, in every step. `ScreenedSearch` computes
this product in 8-bit integers, which is four times as fast if the processor has instructions for it. Then it compares
in float32 only those atoms that could be the best one, given the largest possible rounding error. The result is
therefore that of the plain search, without approximation.

Letters: B vectors (residuals), S atoms, D width of an atom, b blocks of atoms, G groups of atoms, l atoms of a group.
"""

from __future__ import annotations

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

from mergekit_tokenadapt.numerics.integer_products import integer_products_pay
from mergekit_tokenadapt.numerics.threads import in_threads, one_thread

GROUP = 32
"""Atoms per group. The highest score of each group is found first, and groups that cannot hold the best atom are
skipped."""
BLOCK = 4096
"""Largest number of atoms per integer product. The result of such a product stays in the processor's cache until the
highest score of each group has been found."""
CLIP = 4.5
"""Entries of rotated atoms are clipped at this number of standard deviations. For normally distributed entries, this
limit gives the smallest rounding error."""
CROWDED = 0.125
"""If more than this share of the groups can hold the best atom, a vector is compared in float32 with all atoms, or with
all atoms of the block."""
ENDLESS = 0.125
"""If more than this share of the atoms are equally near within rounding, the result of the plain search is taken."""
TOGETHER = 8
"""Smallest number of vectors for which the atoms of a block are gathered, because gathering has a cost of its own."""
FEW, MANY = 64, 256
"""Smallest and largest number of vectors that a thread compares with all atoms at a time. With fewer vectors, products
take up to twice as long."""
MEMORY = 1 << 29
"""Approximate memory for the scores of all threads together, in bytes."""
SLACK = 1e-3
"""Relative margin of the bounds, because they are themselves computed in float32."""


class Search(Protocol):
    """Finds the atoms with the highest inner products with a vector."""

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Find the atom with the highest absolute inner product with each residual; of equal ones, the first.

        Args:
            residuals_BD: float32.

        Returns:
            The places of the atoms, int64 [B]; their inner products with signs, float32 [B].
        """

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the k atoms with the highest inner products with each vector, the highest first.

        Args:
            vectors_BD: float32.
            k: number of atoms, at most S.

        Returns:
            The places of the atoms, int64 [B, k]; their inner products, float32 [B, k].
        """


class DenseSearch:
    """Compares every vector with every atom, in float32.

    Args:
        atoms_SD: float32.
    """

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
    """Compares vectors with all atoms in 8-bit integers, and in float32 with the few atoms that could be the best.

    A residual r and an atom a are rounded to r' and a', multiples of a scale. The triangle inequality and the
    Cauchy-Schwarz inequality give the bound ``|<r, a> - <r', a'>| <= |r| |a - a'| + |r - r'| |a'|``. All of these norms
    are known, and the product <r', a'> is exact in integers. Let b be the atom with the highest integer score. An atom
    whose score is lower than |<r, b>| by more than the bound cannot be better than b, so it is skipped.

    Residuals and atoms are rotated by the same random rotation before they are rounded. A rotation changes no inner
    product. It spreads directions in which all rows are large over all coordinates, which makes rounding errors small.
    Each block of atoms has its own scale. Atoms are sorted by length, so that those of similar length share a scale.
    Atoms of about the same length keep their order. Callers often have similar atoms next to each other, and these then
    fall into the same groups and blocks.

    Each thread gets its own part of the vectors. If all threads shared each product, they would wait for each other
    after every block. With other processes running, this took seven times the processor time.

    Args:
        atoms_SD: float32, on the CPU.
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
            # Atoms are sorted by rounding error, so that only few groups have a loose bound.
            order = _roughly_descending(error)
            padding = (0, self._block - len(places))
            self._rounded.append(torch.nn.functional.pad(rounded[order], (0, 0, *padding)))
            orders.append(torch.nn.functional.pad(places[order], padding, value=-1))
            errors.append(torch.nn.functional.pad(error[order], padding).view(-1, GROUP).amax(dim=1))
            scales.append(scale)
            lengths.append(restored.norm(dim=1).max())
        self._order = torch.cat(orders)
        """int64: the place of each atom, in the order of the blocks; -1 for the padding of the last block."""
        groups = self._block // GROUP
        self._scales_G = torch.tensor(scales).repeat_interleave(groups)
        self._lengths_G = torch.stack(lengths).repeat_interleave(groups)
        """float32: the norm of the longest rounded atom of the block."""
        self._errors_G = torch.cat(errors)
        """float32: the largest norm of the rounding error of an atom in the group."""
        self._float_error = width * torch.finfo(torch.float32).eps * float(atoms_SD.norm(dim=1).max())
        """The largest difference of two float32 products of an atom and a unit vector that sum in different orders."""
        self._most = ENDLESS * num_atoms
        self._free_memory: list[Tensor] = []
        """Buffers for scores. They are kept between calls, because new memory costs a third of the products' time."""
        _warn_of_beta_once()

    def best(self, residuals_BD: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        return self._in_parts(self._best, residuals_BD)

    def top(self, vectors_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `Search`. Of atoms with equal inner products, the first comes first."""
        return self._in_parts(partial(self._top, k=k), vectors_BD)

    def _in_parts(self, search: Callable[[Tensor], tuple[Tensor, Tensor]], vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Search for parts of the vectors in parallel, with as many threads as torch uses and `MEMORY` allows."""
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
            # The exact product with the atom of the highest score is a lower bound of the best product.
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
        """Compare with all atoms in float32, and then again with those that could be the best.

        The second comparison sums as `_best` does elsewhere, so that equal atoms have exactly equal products.
        """
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
        """Return a lower bound of the k-th highest product, float32 [B].

        It is the k-th highest product with the atoms of the highest scores, from the groups of the highest scores.
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
        """If many groups of a block are candidates of a vector, compare it with all atoms of the block in float32.

        Some atoms, such as those of rare characters, differ by less than the rounding error of 8-bit integers.

        Args:
            vectors_BD: float32.
            candidate_BG: bool; changed in place: the groups that are compared here are set to False.
            known_B: float32; lower bounds of the k-th highest products.
            k: number of wanted atoms.

        Returns:
            Pairs of a vector's and an atom's place, int64 both, for the atoms that could be among the k highest; better
            lower bounds, float32 [B]; whether a vector has more of these atoms than `ENDLESS` allows, bool [B]. The
            pairs of such vectors are left out.
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
        """Compute the integer products with all atoms. With `both_signs`, their absolute values count.

        A context manager, because the scores lie in a buffer that the next call uses again.
        """
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
        """Return a buffer for this number of scores, int32 [size or more].

        Threads share the list of free buffers. `pop` removes a buffer from it, so no two threads get the same one.
        """
        try:
            memory = self._free_memory.pop()
        except IndexError:
            memory = torch.empty(0, dtype=torch.int32)
        return memory if len(memory) >= size else torch.empty(size, dtype=torch.int32)

    def _atoms_of(self, owner: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors and places of atoms, from vectors and positions in the blocks. Padding is left out."""
        places = self._order[positions]
        return owner[places >= 0], places[places >= 0]


@dataclass(frozen=True)
class _Scored:
    """Integer products of vectors with atoms (scores), and bounds of the exact products.

    An exact product differs from ``score * scales_B * scales_G`` by at most
    ``errors_B * lengths_G + norms_B * errors_G``.
    """

    scores_bBgl: Tensor
    """int32: the scores, in b blocks of g groups of l atoms."""
    products_BG: Tensor
    """float32: the highest score of each group (with `both_signs` the highest absolute score) times its scales."""
    scales_B: Tensor
    """float32: the scale of each vector."""
    scales_G: Tensor
    """float32: the scale of each group of atoms."""
    errors_B: Tensor
    """float32: the norm of each vector's rounding error."""
    lengths_G: Tensor
    """float32: the largest norm of a rounded atom."""
    norms_B: Tensor
    """float32: the norm of each vector."""
    errors_G: Tensor
    """float32: the largest norm of an atom's rounding error."""
    both_signs: bool
    """Whether absolute products are wanted."""

    def of_groups(self, owner: Tensor, group: Tensor) -> Tensor:
        """Return the scores of one group for each of some vectors, int32 [len(owner), l]; absolute with `both_signs`.

        Args:
            owner: int64; places of the vectors.
            group: int64; the group for each of them.
        """
        per_block = self.scores_bBgl.shape[2]
        scores = self.scores_bBgl[group // per_block, owner, group % per_block]
        return scores.abs() if self.both_signs else scores

    def reach(self, known_B: Tensor) -> Tensor:
        """Return whether a group could hold an atom with a product of at least `known_B`, bool [B, G]."""
        upper_BG = torch.addr(self.products_BG, self.errors_B * (1 + SLACK), self.lengths_G)
        upper_BG.addr_(self.norms_B * (1 + SLACK), self.errors_G)
        return upper_BG >= _surely(known_B)[:, None]

    def inside(self, candidate_BG: Tensor, known_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the atoms of the candidate groups whose product could reach `known_B`.

        Returns:
            Vectors and positions in the blocks, int64 both.
        """
        owner, group = candidate_BG.nonzero(as_tuple=True)
        bounds = self.errors_B[owner] * self.lengths_G[group] + self.norms_B[owner] * self.errors_G[group]
        needed = _surely(known_B)[owner] - bounds * (1 + SLACK)
        products = self.of_groups(owner, group) * (self.scales_B[owner] * self.scales_G[group])[:, None]
        pair, lane = (products >= needed[:, None]).nonzero(as_tuple=True)
        return owner[pair], group[pair] * GROUP + lane


def _surely(known_B: Tensor) -> Tensor:
    """Lower a bound by `SLACK`, so that it holds in spite of float32 rounding."""
    return known_B - known_B.abs() * SLACK


def _roughly_descending(sizes: Tensor) -> Tensor:
    """Return the order from the largest to the smallest, int64. Sizes that differ by less than 10% or so keep their
    order.
    """
    steps = sizes.clamp(min=torch.finfo(torch.float32).tiny).log() / math.log(1.1)
    return steps.round().argsort(descending=True, stable=True)


def choose_search(atoms_SD: Tensor) -> Search:
    """Return the fastest search that gives exact results on this machine.

    Args:
        atoms_SD: float32.
    """
    if atoms_SD.device.type == "cpu" and len(atoms_SD) >= BLOCK and integer_products_pay():
        return ScreenedSearch(atoms_SD)
    return DenseSearch(atoms_SD)


def inner_products(vectors_BD: Tensor, atoms_SD: Tensor, counts_B: Tensor, places: Tensor) -> Tensor:
    """Return the inner products of each vector with some atoms, float32 [len(places)].

    Args:
        vectors_BD: float32.
        atoms_SD: float32.
        counts_B: int64; the number of entries of `places` that belong to each vector.
        places: int64; places of atoms, first those for the first vector, then those for the second, and so on.
    """
    _warn_of_beta_once()
    starts = torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])
    # No other function of torch gathers rows and multiplies them in one pass.
    shape = (len(vectors_BD), len(atoms_SD))
    pattern = torch.sparse_csr_tensor(starts, places, vectors_BD.new_zeros(len(places)), shape, check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(pattern, vectors_BD, atoms_SD.T, beta=0.0).values()
    return found


@cache
def _warn_of_beta_once() -> None:
    """Trigger torch's warning that compressed sparse rows are in beta, and hide it. Torch warns only once.

    The warning is triggered here, because filters of warnings are not safe in threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.eye(1).to_sparse_csr()


def _round(numbers: Tensor) -> Tensor:
    return numbers.round().clamp(-127, 127).to(torch.int8)


def _first_highest(
    owner: Tensor, places: Tensor, products: Tensor, num_owners: int, num_atoms: int
) -> tuple[Tensor, Tensor]:
    """Return each owner's place with the highest absolute product (of equal ones, the lowest), and that product."""
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
    """Return the k places with the highest products of each owner, and the products: [B, k] both.

    Of places with equal products, the lowest comes first. For an owner with fewer than k places, the remaining results
    are those of later owners. The caller replaces them.
    """
    owner = torch.repeat_interleave(counts_B)
    order = torch.from_numpy(np.lexsort((places.numpy(), -products.numpy(), owner.numpy())))
    starts_B1 = (counts_B.cumsum(0) - counts_B)[:, None]
    first = order[(starts_B1 + torch.arange(k)).clamp(max=len(order) - 1)]
    return places[first], products[first]
