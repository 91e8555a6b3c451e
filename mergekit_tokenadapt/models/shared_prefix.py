"""Score several continuations of one context; the model reads the tokens that they share only once.

Documents with equally long prefixes form a batch, so that the cache needs no padding. Cutting the prefixes to multiples
of 4 or 8 tokens would give larger batches; on a CPU it was measured to be no faster.

Letters: D documents in a batch, R continuations (rows) in a batch, P tokens of the shared prefix, S further tokens, K
positions whose logits are kept, V logits.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.cache_names import cache_argument, cache_of
from mergekit_tokenadapt.models.losses import LOGIT_BUDGET, is_out_of_memory, token_losses
from mergekit_tokenadapt.tokenizer.continuations import Continuation

MAX_TOKENS = 8192
"""Largest number of tokens of a batch, those in the cache included. It is halved each time memory runs out."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference of a token's mean loss in nats between the two ways of scoring; `COARSE` for other dtypes."""
COARSE = 0.1


@dataclass
class PrefixScorer:
    """Scores the continuations of documents with one model.

    The first batch with a shared prefix is scored without sharing, too. If the model has no key-value cache that can be
    copied, or if its losses differ by more than `TOLERANCE`, nothing is shared, and `why_plain` says why.
    """

    model: Any
    """A causal language model of transformers, on its device."""
    max_batch: int | None = None
    """Largest number of documents in a batch; None lets the memory decide."""
    shares: bool = True
    """Whether shared prefixes are read once."""
    seconds: float = 0.0
    """Time spent in the model so far, in seconds."""
    num_read: int = 0
    """Number of tokens that the model has read so far, padding not included."""
    why_plain: str | None = None
    """Why prefixes are not shared with this model; None as long as nothing speaks against it."""
    _is_checked: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._cache_argument = cache_argument(self.model)
        self._max_tokens = MAX_TOKENS
        self._max_logits = LOGIT_BUDGET // (4 * int(self.model.config.get_text_config().vocab_size))

    def score(
        self, documents: Sequence[Sequence[Continuation]], advance: Callable[[int], object] = lambda _: None
    ) -> list[np.ndarray]:
        """Compute the loss of each continuation.

        Args:
            documents: the continuations of each document.
            advance: is called with the number of documents that were scored.

        Returns:
            The sums of the losses of the continuations' tokens in nats for each document, float64 [continuations].

        Raises:
            TokenAdaptError: a single document does not fit into memory.
        """
        losses: list[np.ndarray] = [np.zeros(len(choices)) for choices in documents]
        waiting = self._order(documents, range(len(documents)))
        while waiting:
            batch = self._next_batch(waiting, documents)
            prefix = waiting[0][0]
            chosen = [documents[n] for _, _, n in batch]
            try:
                scored = self._checked_run(chosen, prefix)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise TokenAdaptError(f"out of memory with one document of {-batch[0][1]} tokens") from error
                self._max_tokens = _size(chosen) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            for (_, _, n), values in zip(batch, scored, strict=True):
                losses[n] = values
            del waiting[: len(batch)]
            if prefix and not self._is_sharing:  # found out in this batch
                waiting = self._order(documents, [n for _, _, n in waiting])
            advance(len(batch))
        return losses

    @property
    def _is_sharing(self) -> bool:
        return self.shares and self.why_plain is None

    def _order(self, documents: Sequence[Sequence[Continuation]], numbers: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return a sorted list of (tokens of the shared prefix, minus the tokens of the longest text, document number).

        The longest prefixes come first, and among equal prefixes the longest continuations: memory then runs out early
        or never, and batches need little padding.
        """
        keys = [
            (
                shared_length(documents[n]) if self._is_sharing else 0,
                -max(len(c.ids) for c in documents[n]),
                n,
            )
            for n in numbers
        ]
        return sorted(keys, key=lambda key: (-key[0], key[1], key[2]))

    def _next_batch(
        self, waiting: Sequence[tuple[int, int, int]], documents: Sequence[Sequence[Continuation]]
    ) -> list[tuple[int, int, int]]:
        prefix, longest, rows = waiting[0][0], -waiting[0][1], 0
        num_logits = 0
        batch: list[tuple[int, int, int]] = []
        for key in waiting[: self.max_batch]:
            choices = documents[key[2]]
            rows += len(choices)
            num_logits = max(num_logits, longest - min(c.first for c in choices) + 1)
            kept = num_logits if self._keeps_logits else longest - prefix
            too_many = rows * longest > self._max_tokens or rows * kept > self._max_logits
            if key[0] != prefix or (batch and too_many):
                break
            batch.append(key)
        return batch

    def _checked_run(self, documents: Sequence[Sequence[Continuation]], prefix: int) -> list[np.ndarray]:
        """Score one batch. The first time that a prefix is shared, compare with scoring without it."""
        if prefix == 0 or self._is_checked:
            return self._run(documents, prefix)
        plain = self._run(documents, 0)
        try:
            shared = self._run(documents, prefix)
        except (AttributeError, TypeError, ValueError, NotImplementedError, IndexError, KeyError) as error:
            self.why_plain = f"its key-value cache cannot be copied ({first_line(error)})"
            return plain
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.why_plain = f"its key-value cache cannot be copied ({first_line(error)})"
            return plain
        num_tokens = np.array([len(c.ids) - c.first for choices in documents for c in choices])
        difference = float((np.abs(np.concatenate(plain) - np.concatenate(shared)) / num_tokens).max())
        if not difference <= TOLERANCE.get(self.model.dtype, COARSE):  # NaN counts as a difference
            self.why_plain = f"with a key-value cache its losses differ by {difference:.2g} nats a token"
            return plain
        self._is_checked = True
        return shared

    @torch.inference_mode()
    def _run(self, documents: Sequence[Sequence[Continuation]], prefix: int) -> list[np.ndarray]:
        started = time.perf_counter()
        rows = [continuation for choices in documents for continuation in choices]
        longest = max(len(c.ids) for c in rows) - 1  # the last token is only predicted
        # Padding is on the right, where the other positions of a causal model do not attend to it.
        inputs_RS = torch.zeros((len(rows), longest - prefix), dtype=torch.int64)
        mask_RT = torch.zeros((len(rows), longest), dtype=torch.int64)
        for n, c in enumerate(rows):
            inputs_RS[n, : len(c.ids) - 1 - prefix] = torch.tensor(c.ids[prefix:-1])
            mask_RT[n, : len(c.ids) - 1] = 1
        first = min(c.first for c in rows) - 1  # the position that predicts the first token to score
        arguments: dict[str, Any] = {"use_cache": False}
        if prefix:
            arguments = {"use_cache": True, self._cache_argument: self._cache_of_prefixes(documents, prefix)}
        if self._keeps_logits:
            arguments["logits_to_keep"] = longest - first
        device = self.model.device
        logits_RKV = self.model(inputs_RS.to(device), attention_mask=mask_RT.to(device), **arguments).logits
        begin = longest - logits_RKV.shape[1]  # position of the first logits
        sums = []
        for n, c in enumerate(rows):
            targets = torch.tensor(c.ids[c.first :], device=device)
            sums.append(float(token_losses(logits_RKV[n, c.first - 1 - begin : len(c.ids) - 1 - begin], targets).sum()))
        self.seconds += time.perf_counter() - started
        self.num_read += prefix * len(documents) + sum(len(c.ids) - 1 - prefix for c in rows)
        ends = np.cumsum([len(choices) for choices in documents])
        return np.split(np.array(sums), ends[:-1])

    def _cache_of_prefixes(self, documents: Sequence[Sequence[Continuation]], prefix: int) -> Any:
        """Run the model on the prefix of each document, and return the cache with one row for each continuation."""
        prefixes_DP: Tensor = torch.tensor([choices[0].ids[:prefix] for choices in documents])
        device = self.model.device
        arguments = {"logits_to_keep": 1} if self._keeps_logits else {}
        mask_DP = torch.ones_like(prefixes_DP)
        output = self.model(prefixes_DP.to(device), attention_mask=mask_DP.to(device), use_cache=True, **arguments)
        cache = cache_of(output)
        document_R = torch.repeat_interleave(
            torch.arange(len(documents)), torch.tensor([len(choices) for choices in documents])
        )
        cache.batch_select_indices(document_R.to(device))
        return cache


def shared_length(choices: Sequence[Continuation]) -> int:
    """Return how many first tokens all continuations of a document share and none of them predicts from.

    The last token of the context is not among them: its logits predict the first token of each continuation. A single
    continuation shares nothing.
    """
    if len(choices) < 2:
        return 0
    limit = min(c.first for c in choices) - 1
    for position in range(limit):
        if len({c.ids[position] for c in choices}) > 1:
            return position
    return limit


def _size(documents: Sequence[Sequence[Continuation]]) -> int:
    """Return the number of tokens of a batch, padding included."""
    return sum(map(len, documents)) * max(len(c.ids) for choices in documents for c in choices)
