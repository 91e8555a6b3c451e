"""Compute the loss of every token of many sequences, in overlapping windows and in batches that fit into memory.

Letters: B windows in a batch, T positions, V logits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line

WINDOW = 1024
"""Default length of a window in tokens."""
STRIDE = 512
"""Default number of tokens that each window after the first scores; the rest of the window is context."""
LOGIT_BUDGET = 2**29
"""Size of the float32 logits of the first batch in bytes, 512 MiB. It is halved each time memory runs out."""
LOSS_ROWS = 256
"""Positions whose logits are converted to float32 at a time."""


class Window(NamedTuple):
    """One window: the model sees the tokens ``begin:end`` of a sequence, and its predictions from ``first`` on count.

    Prediction n, made at token n, is about token n + 1.
    """

    sequence: int
    begin: int
    end: int
    first: int


def windows(sequence: int, length: int, window: int, stride: int) -> Iterator[Window]:
    """Divide the `length` predictions of a sequence into windows, so that every prediction counts exactly once.

    In the first window all predictions count. In a later one the last `stride` predictions count, each of which has at
    least ``window - stride`` tokens of context. With ``stride == window`` the windows do not overlap.

    Args:
        sequence: number of the sequence, which each window repeats.
        length: number of predictions, one less than the sequence's tokens.
        window: largest number of tokens in a window.
        stride: number of predictions that count in each window after the first.

    >>> [(w.begin, w.end, w.first) for w in windows(0, 10, 4, 2)]
    [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    """
    first = 0
    while first < length:
        end = min(length, window if first == 0 else first + stride)
        yield Window(sequence, max(0, end - window), end, first)
        first = end


def stride_for(window: int) -> int:
    """Return the usual stride of a window: half of it, as `STRIDE` is of `WINDOW`."""
    return max(1, window * STRIDE // WINDOW)


def check_stride(window: int, stride: int) -> None:
    """Check that every token will be scored.

    Raises:
        TokenAdaptError: the stride is longer than the window, or not positive.
    """
    if not 0 < stride <= window:
        raise TokenAdaptError(f"the stride must be between 1 and the window ({window}), not {stride}")


@dataclass
class Scorer:
    """Scores token sequences with one model, and measures the time."""

    model: Any
    """A causal language model of transformers, on its device."""
    window: int = WINDOW
    """Length of a window in tokens."""
    stride: int = STRIDE
    """Tokens that each window after the first scores."""
    max_batch: int | None = None
    """Largest number of windows in a batch; None lets the memory decide."""
    seconds: float = 0.0
    """Time spent in the model so far, in seconds."""
    num_scored: int = 0
    """Number of tokens scored so far."""

    def __post_init__(self) -> None:
        check_stride(self.window, self.stride)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Compute the loss of every token of each sequence, except the first token, which is only context.

        Args:
            sequences: token ids. A sequence of a single id gives no losses.

        Returns:
            Losses in nats for each sequence, float64 [len(sequence) - 1].

        Raises:
            TokenAdaptError: a single window does not fit into memory, or has more tokens than the model's positions.
        """
        losses = [np.zeros(max(0, len(ids) - 1)) for ids in sequences]
        waiting = [w for n, ids in enumerate(sequences) for w in windows(n, len(ids) - 1, self.window, self.stride)]
        # Sorted by length, batches need little padding. With the longest first, memory runs out early or never.
        waiting.sort(key=lambda w: (w.begin - w.end, w.sequence, w.begin))
        max_tokens = self._first_guess()
        while waiting:
            longest = waiting[0].end - waiting[0].begin
            size = max(1, max_tokens // longest)
            batch = waiting[: min(size, self.max_batch or size)]
            try:
                scored = self._run(batch, sequences)
            except IndexError as error:
                raise TokenAdaptError(
                    f"the model cannot read a window of {longest} tokens, because it has a table of fewer positions "
                    f"({first_line(error)}): set a smaller --window"
                ) from error
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise TokenAdaptError(
                        f"out of memory with a single window of {longest} tokens: try a smaller --window"
                    ) from error
                max_tokens = longest * (len(batch) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            for w, values in zip(batch, scored, strict=True):
                losses[w.sequence][w.first : w.end] = values
            del waiting[: len(batch)]
        self.num_scored += sum(map(len, losses))
        return losses

    def _first_guess(self) -> int:
        return max(1, LOGIT_BUDGET // (4 * int(self.model.config.get_text_config().vocab_size)))

    @torch.inference_mode()
    def _run(self, batch: Sequence[Window], sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        longest = max(w.end - w.begin for w in batch)
        inputs_BT = torch.zeros((len(batch), longest), dtype=torch.int64)
        mask_BT = torch.zeros_like(inputs_BT)
        for n, w in enumerate(batch):
            inputs_BT[n, : w.end - w.begin] = torch.tensor(sequences[w.sequence][w.begin : w.end])
            mask_BT[n, : w.end - w.begin] = 1
        device = self.model.device
        started = time.perf_counter()
        # Padding is on the right, where the other positions of a causal model do not attend to it.
        logits_BTV = self.model(inputs_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False).logits
        scored = []
        for n, w in enumerate(batch):
            targets = torch.tensor(sequences[w.sequence][w.first + 1 : w.end + 1], device=device)
            scored.append(token_losses(logits_BTV[n, w.first - w.begin : w.end - w.begin], targets))
        self.seconds += time.perf_counter() - started
        return scored


def token_losses(logits_TV: Tensor, targets_T: Tensor) -> np.ndarray:
    """Return the negative log probability of each target in nats, float64 [T], computed in float32.

    Args:
        logits_TV: any floating dtype.
        targets_T: int64.
    """
    parts = []
    for start in range(0, len(targets_T), LOSS_ROWS):
        rows_TV = logits_TV[start : start + LOSS_ROWS].float()
        chosen_T = rows_TV.gather(1, targets_T[start : start + LOSS_ROWS, None]).squeeze(1)
        parts.append((rows_TV.logsumexp(dim=1) - chosen_T).cpu().double())
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return "out of memory" in message or "can't allocate memory" in message
