"""Orthogonal matching pursuit (OMP) of many targets over one dictionary of atoms.

OMP (Pati, Rezaiifar and Krishnaprasad, 1993) approximates a target by a weighted sum of few atoms. Each step chooses
the atom that has the largest inner product with the residual, fits all chosen atoms to the target by least squares, and
computes the new residual. As in Batch-OMP (Rubinstein, Zibulevsky and Elad, 2008), a step does not solve the least
squares anew: it extends the Cholesky factor of the chosen atoms' Gram matrix by one row.

Letters: N targets, B targets of a batch, S atoms, D width of an atom, k steps, t steps done.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from mergekit_tokenadapt.numerics.inner_products import Search, choose_search, inner_products
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.storage.shards import resumed, shard_folder
from mergekit_tokenadapt.terminal.progress import Bar, progress

BATCH = 512
"""Largest number of targets in a batch."""
MEMORY = 2**29
"""Bytes that the scores and Cholesky factors of a batch may take, 512 MiB."""
SHARD = 4096
"""Targets per shard on disk. A stopped run loses at most one shard."""
VERSION = 1
"""Version of the content of a shard. A new number makes old shards unused."""
EMPTY = SparseRows(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
"""The result for no targets."""
REFINED = 32
"""Targets refined at a time: their chosen atoms are copied to float64, which takes 8 * k * D bytes per target."""
NOTHING_LEFT = 1e-6
"""The pursuit of a target stops when |<residual, atom>| of the best atom is at most this times |target| |atom|. What is
left of the target then is rounding noise of float32."""
DEPENDENT = 1e-6
"""Smallest squared distance of an atom from the span of the chosen atoms, relative to its squared length. A nearer atom
is linearly dependent on the chosen ones up to rounding, and would get arbitrary weights."""


def matching_pursuit(
    targets_ND: Tensor,
    atoms_SD: Tensor,
    k: int,
    *,
    quiet: bool = False,
    resumes: bool = False,
    search: Search | None = None,
) -> SparseRows:
    """Approximate each target by a weighted sum of at most `k` atoms.

    A target gets fewer than `k` atoms if there are fewer, or if fewer leave only rounding noise as residual. A target
    that is zero or orthogonal to all atoms gets none.

    Args:
        targets_ND: [N, D], any floating dtype, all values finite; not changed.
        atoms_SD: [S, D], any floating dtype, all values finite, on the same device; not changed.
        k: largest number of atoms per target.
        quiet: show no progress.
        resumes: store finished shards in the cache, so that a stopped run can resume.
        search: finds the atom with the largest inner product; None chooses the fastest. Tests pass others.

    Returns:
        N sparse rows over the S atoms, on the CPU, in the order in which the atoms were chosen. Weights are computed in
        float64 and stored as float32.

    Raises:
        ValueError: the widths differ, or there are no atoms.
    """
    if not len(atoms_SD) or targets_ND.shape[1] != atoms_SD.shape[1]:
        raise ValueError(f"cannot combine atoms of shape {list(atoms_SD.shape)} to {list(targets_ND.shape)}")
    atoms_SD = atoms_SD.float().contiguous()
    search = search or choose_search(atoms_SD)
    keeps = resumes and len(targets_ND) > SHARD
    parts = []
    with (
        shard_folder(f"omp-{_key(targets_ND, atoms_SD, k)}") if keeps else nullcontext() as folder,
        progress(total=len(targets_ND), desc="Matching pursuit", unit="token", quiet=quiet) as bar,
    ):
        for start in range(0, len(targets_ND), SHARD):
            shard_ND = targets_ND[start : start + SHARD]
            make = partial(_shard, shard_ND, atoms_SD, min(k, len(atoms_SD)), search, bar)
            parts.append(resumed(folder, f"{start:08d}", make))
            bar.update(start + len(shard_ND) - bar.n)  # targets of shards that were read instead of computed
    compositions = [SparseRows(part["indptr"], part["ids"].long(), part["weights"]) for part in parts]
    return SparseRows.concatenate(compositions) if compositions else EMPTY


def _key(targets_ND: Tensor, atoms_SD: Tensor, k: int) -> str:
    """Return a hash of everything that a shard depends on."""
    digest = hashlib.sha256(f"{VERSION} {k} {list(targets_ND.shape)} {list(atoms_SD.shape)}".encode())
    for tensor in (targets_ND, atoms_SD):
        digest.update(tensor.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:40]


def _shard(targets_ND: Tensor, atoms_SD: Tensor, steps: int, search: Search, bar: Bar) -> dict[str, Tensor]:
    """Pursue the targets of one shard, batch by batch, and return the three tensors of `SparseRows`."""
    # float32 scores take 4 * S bytes per target, twice while they are compared; factors take 8 * k * k bytes.
    batch = max(1, min(BATCH, MEMORY // (8 * len(atoms_SD) + 8 * steps * steps)))
    counts, ids, weights = [], [], []
    for targets_BD in targets_ND.split(batch):  # type: ignore[no-untyped-call]
        chosen_Bt, coefficients_Bt, is_used_Bt = _pursue(targets_BD.float(), atoms_SD, steps, search)
        counts.append(is_used_Bt.sum(dim=1).cpu())
        ids.append(chosen_Bt[is_used_Bt].int().cpu())
        weights.append(coefficients_Bt[is_used_Bt].float().cpu())
        bar.update(len(targets_BD))
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    return {"indptr": indptr, "ids": torch.cat(ids), "weights": torch.cat(weights)}


def _pursue(targets_BD: Tensor, atoms_SD: Tensor, steps: int, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """Pursue the targets of one batch.

    Returns:
        Chosen atoms int64, their coefficients float64, and whether each place is used, bool; all [B, steps].
    """
    size, device = len(targets_BD), targets_BD.device
    chosen = torch.zeros((size, steps), dtype=torch.int64, device=device)
    coefficients = torch.zeros((size, steps), dtype=torch.float64, device=device)
    is_used = torch.zeros((size, steps), dtype=torch.bool, device=device)
    # The inverse of the Cholesky factor: row t holds the weights of the chosen atoms that give the t-th orthonormal
    # direction (Gram-Schmidt). With the inverse, no step has to solve a triangular system.
    directions = torch.zeros((size, steps, steps), dtype=torch.float64, device=device)
    is_open = torch.ones(size, dtype=torch.bool, device=device)
    lengths_B = targets_BD.norm(dim=1)
    residuals_BD = targets_BD
    for t in range(steps):
        places, correlations = search.best(residuals_BD)
        new_BD = atoms_SD[places]
        squares = new_BD.double().square().sum(dim=1)
        # A target whose pursuit has ended stays in the batch with zero updates: tensors keep one shape.
        is_open = is_open & (correlations.abs() > NOTHING_LEFT * lengths_B * squares.sqrt())
        counts = torch.full((size,), t, device=device)
        gram_Bt = inner_products(new_BD, atoms_SD, counts, chosen[:, :t].flatten()).view(size, t).double()
        known = directions[:, :t, :t]
        shares_Bt = torch.bmm(known, gram_Bt[:, :, None])[:, :, 0]
        left_B = squares - shares_Bt.square().sum(dim=1)
        is_open = is_open & (left_B > DEPENDENT * squares)
        if not is_open.any():
            break
        # The part of the new atom that is orthogonal to the chosen ones, normalised, is the new direction.
        scale_B = torch.where(is_open, left_B, 1).sqrt()
        row = torch.cat([-torch.bmm(shares_Bt[:, None], known)[:, 0], torch.ones_like(left_B)[:, None]], dim=1)
        row = row / scale_B[:, None] * is_open[:, None]
        directions[:, t, : t + 1] = row
        chosen[:, t] = torch.where(is_open, places, 0)
        is_used[:, t] = is_open
        # The residual is orthogonal to all earlier directions, so its share along the new one is correlation / scale.
        coefficients[:, : t + 1] += row * (correlations / scale_B)[:, None]
        residuals_BD = targets_BD - _combine(chosen[:, : t + 1], coefficients[:, : t + 1], atoms_SD)
    for part in torch.arange(size, device=device).split(REFINED):  # type: ignore[no-untyped-call]
        coefficients[part] = _refined(
            targets_BD[part], atoms_SD, chosen[part], coefficients[part], directions[part], is_used[part]
        )
    return chosen, coefficients, is_used


def _combine(chosen_Bt: Tensor, coefficients_Bt: Tensor, atoms_SD: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(
        chosen_Bt, atoms_SD, mode="sum", per_sample_weights=coefficients_Bt.float()
    )


def _refined(
    targets_BD: Tensor,
    atoms_SD: Tensor,
    chosen_Bt: Tensor,
    coefficients_Bt: Tensor,
    directions_Btt: Tensor,
    is_used_Bt: Tensor,
) -> Tensor:
    """Improve the coefficients, float64 [B, steps], by one step of iterative refinement in float64.

    The Gram matrix consists of float32 inner products, which limit the accuracy of the coefficients.
    """
    atoms_BtD = atoms_SD[chosen_Bt].double() * is_used_Bt[:, :, None]
    made_BD = torch.bmm(coefficients_Bt[:, None], atoms_BtD)[:, 0]
    errors_Bt1 = torch.bmm(atoms_BtD, (targets_BD.double() - made_BD)[:, :, None])
    return coefficients_Bt + torch.bmm(directions_Btt.mT, torch.bmm(directions_Btt, errors_Bt1))[:, :, 0]
