"""Fit a change of the output rows that makes the model's predictions match those of the base model.

The last step of a language model is linear: logits are hidden states times output rows. With fixed hidden
states, fitting the rows to target distributions is a convex problem, a multinomial regression. Two things are
fitted. One linear map for all copied rows and one for all composed rows transfer to tokens that the text does
not contain. A shift is fitted for each token to which the targets or the model often give probability. An L2
penalty shrinks all of them towards zero. Shifts shrink more if the text has less evidence of their token. At the
end the change is scaled by a strength that held-out passages choose; 0 means no change.

Rows have the origins of `TransferPlan.origins`. Rows of one origin share a map. Rows of origin -1 are the mean
of all others and take no part.

Letters: R new rows, O origins, A active tokens, P positions, B positions in a batch, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.correction.gradients import Gradients
from mergekit_tokenadapt.models.loading import fast_dtype
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.transfer.finite_rows import mean_row

MAX_ACTIVE = 40_960
"""Largest number of tokens with a shift of their own, unless held-out text has more. It bounds time and memory."""
RESTING = 4096
"""Tokens that stand for all others in the normalisation."""
NUM_ORIGINS = 2
"""Number of origins whose rows are changed: copied rows and composed rows."""
EPOCHS = 2
"""Number of times that the fit goes through all positions."""
BATCH = 1024
"""Positions per step of Adam."""
JUDGED_TOGETHER = 128
"""Held-out positions whose logits are computed at a time. Larger tensors would get new pages from the operating system
every time, which takes longer than the arithmetic."""
STEP_ROWS = 0.016
"""First step of Adam for the shifts, in units of the rows' root mean square."""
STEP_MAP = 0.01
"""First step of Adam for the maps, over the square root of the width."""
L2_PENALTY = 10.0
"""L2 penalty on shifts and maps, for the loss summed over positions, in units where hidden states have root mean
square 1."""
ENOUGH = 1.0
"""Expected number of occurrences of a token at which it gets half of its shift. Without this shrinkage, all tokens that
the calibration text lacks would become less likely, although another text may contain them."""
STRENGTHS = (0.0, 0.25, 0.5, 1.0)
"""Factors of the fitted change that are tried on the held-out passages."""


@dataclass(frozen=True)
class Positions:
    """P positions of the text at which the transplanted model predicts a token."""

    states_PD: Tensor
    """float [P, D]: the model's hidden states."""
    next_ids: Tensor
    """int64 [P]: the next token of the text."""
    targets: SparseRows
    """The base model's predictions: P distributions over new tokens."""
    is_held_out: Tensor
    """bool [P]: positions of the held-out passages."""


@dataclass(frozen=True)
class CorrectionReport:
    """The calibration text and the result. `base`, `before` and `after` are bits per byte of the held-out passages."""

    text: Mapping[str, Any]
    """Source, size and hash of the text, see `CalibrationText.describe`."""
    tokens: int
    """Number of new tokens in the text."""
    shifted_rows: int
    """Number of rows that have a shift of their own."""
    strength: float
    """Factor by which the fitted correction was scaled; 0 is no correction."""
    base: float
    """Bits per byte of the base model, in its own tokens."""
    before: float
    """Bits per byte of the transplanted model without the correction."""
    after: float
    """Bits per byte of the transplanted model with the correction."""


@dataclass(frozen=True)
class RowChange:
    """A linear map for the output rows of each origin, and a shift for each active token."""

    maps_ODD: Tensor
    """float32: rows of an origin get ``rows @ maps_ODD[origin].T`` added."""
    ids: Tensor
    """int64 [A]: rows with a shift."""
    shifts_AD: Tensor
    """float32: the vectors that are added to these rows."""

    def scaled(self, strength: float) -> RowChange:
        """Return the change with maps and shifts multiplied by `strength`."""
        return RowChange(self.maps_ODD * strength, self.ids, self.shifts_AD * strength)

    def apply(self, rows_RD: Tensor, origins_R: Tensor) -> Tensor:
        """Return changed rows [R, D] in the same dtype and on the same device. `rows_RD` stays as it is.

        Args:
            rows_RD: float; the output rows that the change was fitted for.
            origins_R: int64; the origins with which it was fitted. Rows of origin -1 become the mean of the others.
        """
        device = rows_RD.device
        origins_R, new_RD = origins_R.to(device), rows_RD.to(torch.float32, copy=True)
        for origin, map_DD in enumerate(self.maps_ODD.to(device)):
            ids = (origins_R == origin).nonzero().flatten()
            new_RD[ids] += new_RD[ids] @ map_DD.T
        new_RD[self.ids.to(device)] += self.shifts_AD.to(device)
        new_RD[origins_R < 0] = mean_row(new_RD, (origins_R >= 0).nonzero().flatten())
        return new_RD.to(rows_RD.dtype)


@dataclass(frozen=True)
class Correction:
    """The change of the output rows, and the report on it."""

    change: RowChange
    report: CorrectionReport

    def apply(self, rows_RD: Tensor, origins_R: Tensor) -> Tensor:
        """Return corrected output rows, see `RowChange.apply`. If no correction helps, return `rows_RD` itself."""
        return self.change.apply(rows_RD, origins_R) if self.report.strength else rows_RD


def fit_change(rows_RD: Tensor, origins_R: Tensor, positions: Positions, *, quiet: bool = False) -> FittedChange:
    """Fit a change of output rows. The result is deterministic.

    Args:
        rows_RD: the output rows to change, float32, on the device to compute on.
        origins_R: int64; rows of the same origin, 0 and up, share a map; those of origin -1 take no part.
        positions: the positions to fit, and the held-out ones to judge the fit by.
        quiet: show no progress bar.
    """
    problem = _Regression.prepare(rows_RD, origins_R, positions)
    return FittedChange(problem, *problem.solve(quiet=quiet))


def choose_strength(held_out_bits: Callable[[float], float]) -> tuple[float, float, float]:
    """Choose the strength of `STRENGTHS` with the lowest loss on held-out positions.

    Args:
        held_out_bits: returns the loss in bits at a strength.

    Returns:
        The strength, the bits without a correction, and the bits at this strength.
    """
    tried = [(held_out_bits(strength), strength) for strength in STRENGTHS]
    after, strength = min(tried)
    return strength, tried[0][0], after


@dataclass(frozen=True)
class FittedChange:
    """A change at full strength, and the problem that it solves."""

    _problem: _Regression
    _maps_ODD: Tensor
    _shifts_AD: Tensor

    def change(self) -> RowChange:
        """Return the change at full strength, with its tensors in main memory."""
        problem = self._problem
        return RowChange(self._maps_ODD.cpu(), problem.active, (self._shifts_AD / problem.scale).cpu())

    def held_out_bits(self, strength: float) -> float:
        """Return the loss on the held-out positions in bits, for output rows changed with this strength.

        The hidden states are those of the unchanged model, so this is exact only if input rows stay as they are.
        """
        return self._problem.held_out_bits(self._maps_ODD * strength, self._shifts_AD * strength)


@dataclass(frozen=True)
class _Regression:
    """The regression problem, in units where hidden states have root mean square 1."""

    scale: float
    """Root mean square of the hidden states."""
    states_PD: Tensor
    """float [P, D]: hidden states, not yet divided by `scale`."""
    active: Tensor
    """int64 [A]: ids of the active tokens, copied ones first."""
    active_OAD: tuple[Tensor, ...]
    """float32: rows of the active tokens, by origin."""
    resting_OND: tuple[Tensor, ...]
    """float32: rows of a random sample of the other tokens, by origin. They stand for all of them."""
    resting_weight: float
    """Logarithm of the number of tokens that each resting token stands for."""
    next_P: Tensor
    """int64: place of the next token among the active ones, or -1. In held-out passages -1 is a token of origin -1."""
    targets: SparseRows
    """P distributions over places among the active tokens."""
    is_held_out: Tensor
    """bool [P]"""

    @classmethod
    def prepare(cls, rows_RD: Tensor, origins_R: Tensor, positions: Positions) -> _Regression:
        generator = torch.Generator().manual_seed(0)
        scale = float(positions.states_PD[:: max(1, len(positions.states_PD) // 4096)].float().square().mean().sqrt())
        live = origins_R >= 0
        mass_R = _probability_mass(rows_RD, live, positions, generator)
        mass_R.index_add_(0, positions.targets.ids, positions.targets.weights)
        mass_R[~live] = -1
        # The held-out loss needs the logits of these tokens, so they are active even beyond MAX_ACTIVE.
        judged = positions.next_ids[positions.is_held_out].unique()  # type: ignore[no-untyped-call]
        judged = judged[live[judged]]
        mass_R[judged] = torch.inf
        num_active = max(len(judged), min(MAX_ACTIVE, int((mass_R >= 0).sum())))
        chosen = mass_R.topk(num_active).indices.sort().values
        by_origin = [chosen[origins_R[chosen] == origin] for origin in range(NUM_ORIGINS)]
        active = torch.cat(by_origin)
        place_R = torch.full((len(rows_RD),), -1)
        place_R[active] = torch.arange(len(active))
        others = (live & (place_R < 0)).nonzero().flatten()
        resting = others[torch.randperm(len(others), generator=generator)[:RESTING]]
        targets = positions.targets
        kept = place_R[targets.ids] >= 0
        return cls(
            scale=scale,
            states_PD=positions.states_PD,
            active=active,
            active_OAD=tuple(rows_RD[ids.to(rows_RD.device)] * scale for ids in by_origin),
            resting_OND=tuple(
                rows_RD[resting[origins_R[resting] == origin].to(rows_RD.device)] * scale
                for origin in range(NUM_ORIGINS)
            ),
            resting_weight=math.log(len(others) / len(resting)) if len(resting) else 0.0,
            next_P=place_R[positions.next_ids],
            targets=SparseRows.from_triplets(
                targets.rows[kept], place_R[targets.ids[kept]], targets.weights[kept], len(targets)
            ).normalised(),
            is_held_out=positions.is_held_out,
        )

    @torch.no_grad()
    def solve(self, *, quiet: bool) -> tuple[Tensor, Tensor]:
        """Fit by Adam with a step that falls linearly to 0. Return the maps [O, D, D] and the shifts [A, D]."""
        rows_AD = torch.cat(self.active_OAD)
        device, width = rows_AD.device, rows_AD.shape[1]
        fitted = ((self.targets.counts > 0) & ~self.is_held_out).nonzero().flatten()
        maps_ODD = torch.zeros((NUM_ORIGINS, width, width), device=device)
        free_AD = torch.zeros_like(rows_AD)
        maps_ODD.grad, free_AD.grad = torch.empty_like(maps_ODD), torch.empty_like(free_AD)
        step_rows = STEP_ROWS * float(rows_AD.square().mean().sqrt())
        groups = [{"params": [maps_ODD], "lr": STEP_MAP / math.sqrt(width)}, {"params": [free_AD], "lr": step_rows}]
        # The loss of a batch is a mean over positions, so the penalty is divided by their number. Adam's `weight_decay`
        # adds the gradient of the penalty, which has the factor 2.
        decay = 2 * L2_PENALTY / max(1, len(fitted))
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), weight_decay=decay, fused=_has_fused(device))
        generator = torch.Generator().manual_seed(0)
        orders = [fitted[torch.randperm(len(fitted), generator=generator)] for _ in range(EPOCHS)]
        batches = [batch for order in orders for batch in order.split(BATCH)]  # type: ignore[no-untyped-call]
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max(1, len(batches)))
        # Rounded gradients are precise enough: the fitted rows give the same loss on text.
        dtype = fast_dtype(device)
        gradients = Gradients(self.active_OAD, self.resting_OND, self.resting_weight, batch=BATCH, dtype=dtype)
        for batch in progress(batches, desc="Fitting output rows", unit="batch", quiet=quiet):
            states_BD = self.states_PD[batch].to(rows_AD) / self.scale
            gradients.write(states_BD, self.targets.select(batch), maps_ODD, free_AD)
            optimizer.step()
            schedule.step()
        # Shifts are shrunk only after the fit. During the fit, the maps would take over what the shifts may not
        # express, and they would carry it over to all other tokens.
        trust_A1 = _trust(self.targets, ~self.is_held_out, len(self.active)).to(device)
        return maps_ODD, trust_A1 * free_AD

    def _logits(self, places: Tensor, maps_ODD: Tensor, shifts_AD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the active tokens [B, A], and of all tokens the logarithm of the sum of exponentials [B] and
        the mean [B], all float32."""
        states_BD = self.states_PD[places].to(shifts_AD) / self.scale
        mapped_OBD = [states_BD + states_BD @ map_DD for map_DD in maps_ODD]
        active = [mapped @ rows.T for mapped, rows in zip(mapped_OBD, self.active_OAD, strict=True)]
        logits_BA = torch.cat(active, dim=1) + states_BD @ shifts_AD.T
        total_B, sum_B, number = logits_BA.logsumexp(dim=1), logits_BA.sum(dim=1), float(logits_BA.shape[1])
        if any(len(rows) for rows in self.resting_OND):
            resting = [mapped @ rows.T for mapped, rows in zip(mapped_OBD, self.resting_OND, strict=True)]
            resting_BN, each = torch.cat(resting, dim=1), math.exp(self.resting_weight)
            total_B = torch.logaddexp(total_B, resting_BN.logsumexp(dim=1) + self.resting_weight)
            sum_B, number = sum_B + each * resting_BN.sum(dim=1), number + each * resting_BN.shape[1]
        return logits_BA, total_B, sum_B / number

    @torch.no_grad()
    def held_out_bits(self, maps_ODD: Tensor, shifts_AD: Tensor) -> float:
        """Return the loss of the tokens that follow the held-out positions, in bits."""
        total = 0.0
        for places in self.is_held_out.nonzero().flatten().split(JUDGED_TOGETHER):  # type: ignore[no-untyped-call]
            logits_BA, total_B, mean_B = self._logits(places, maps_ODD, shifts_AD)
            next_B = self.next_P[places].to(logits_BA.device)
            chosen_B = logits_BA.gather(1, next_B.clamp(min=0)[:, None]).squeeze(1)
            chosen_B = torch.where(next_B < 0, mean_B, chosen_B)  # the logit of the mean row is the mean of the logits
            total += float((total_B - chosen_B).sum(dtype=torch.float64))
        return total / math.log(2)


def _has_fused(device: torch.device) -> bool:
    """Return whether Adam can update parameters in place on this device, without tensors of their size."""
    return device.type in ("cpu", "cuda")


def _trust(targets: SparseRows, is_fitted_P: Tensor, num_active: int) -> Tensor:
    """Return the share of its shift that each token gets, float32 [A, 1].

    It is n / (n + `ENOUGH`) for n expected occurrences.
    """
    occurrences_A = torch.zeros(num_active)
    occurrences_A.index_add_(0, targets.ids, targets.weights * is_fitted_P[targets.rows])
    return (occurrences_A / (occurrences_A + ENOUGH))[:, None]


@torch.no_grad()
def _probability_mass(rows_RD: Tensor, live: Tensor, positions: Positions, generator: torch.Generator) -> Tensor:
    """Estimate the sum of each token's probability over all positions, from a sample of them: float32 [R]."""
    num_positions = len(positions.states_PD)
    sample = torch.randperm(num_positions, generator=generator)[: 2 * BATCH]
    total_R = torch.zeros(len(rows_RD))
    buffer = rows_RD.new_empty((BATCH // 4, len(rows_RD)))  # one for all batches: see `gradients`
    rests = ~live.to(rows_RD.device)
    for places in sample.split(BATCH // 4):  # type: ignore[no-untyped-call]
        states = positions.states_PD[places].to(rows_RD)
        logits = torch.mm(states, rows_RD.T, out=buffer[: len(places)]).masked_fill_(rests, -torch.inf)
        logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
        total_R += (logits.sum(dim=1).reciprocal() @ logits).cpu()
    return total_R * (num_positions / max(1, len(sample)))
