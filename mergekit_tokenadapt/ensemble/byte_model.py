"""Compute a token model's probabilities of the next byte, exactly and without training.

The method is the Byte-Token Representation Lemma (Phan et al., "Exact Byte-Level Probabilities from Tokenized Language
Models", arXiv 2410.09303, section 3). A *cover* of a text x is a canonical sequence of tokens whose bytes start with x,
and whose last token is needed to reach the end of x. The probability of x is a sum over its covers:

    P(x) = sum over covers t of x of P(t),     P(b | x) = P(x b) / (sum over b' of P(x b') + P(x, eos)).

Every cover is a canonical sequence for x[:i] (a *context* of length i), followed by one more token whose bytes start
with x[i:]. Each context needs one run of the model. The tokens are sorted by their bytes, so those with a common start
are neighbours, and the probability of a cover's last byte is a sum over a slice of this list.

A model gives some probability to sequences that are not canonical. They are left out, and the rest is normalised.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from mergekit_tokenadapt.ensemble.canonical import Canonical
from mergekit_tokenadapt.ensemble.options import ByteOptions
from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.cache_names import cache_argument, takes_cache
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

EOS = 256
"""Index of the outcome "the text ends", after the 256 bytes."""
SURPRISE = 10
"""The probability of a byte below `SURPRISE` * `tolerance` is computed again without tolerance."""


@dataclass(eq=False)
class Context:
    """A canonical sequence of tokens, and the model's probabilities after it."""

    tokens: tuple[int, ...]
    """Token ids, without the start token."""
    before: Context | None
    """The sequence without its last token. It is None once `log_probability` is known."""
    log_probability: float | None = None
    """Log probability of all tokens in nats, or None while nobody has needed it."""
    said_V: np.ndarray | None = None
    """Probability of each next token in the order of `Canonical.ids`, float32, or None while nobody has needed it."""
    masses_V: np.ndarray | None = None
    """`said_V` as float64, with 0 for tokens that are known to make the sequence not canonical."""
    is_checked_V: np.ndarray | None = None
    """Whether the sequence with each token was checked for being canonical, bool."""
    eos: float = 0.0
    """Probability of the eos token."""


class ByteModel:
    """Reads a text byte by byte, and gives the distribution of the next byte.

    Args:
        model: a causal language model of transformers whose cache can be cropped.
        tokenizer: its tokenizer.
        tolerance: after each context, the least likely tokens with at most this total probability are not checked for
            being canonical. Contexts with less than a hundredth of it as their share of P(x) are ignored. Bytes less
            likely than ten times the tolerance are computed again without it. 0 makes everything exact, and slow.

    Raises:
        TokenAdaptError: the tokenizer is not supported (see `Canonical`), or it has neither a bos nor an eos token.
    """

    def __init__(self, model: Any, tokenizer: TokenizerFiles, *, tolerance: float = ByteOptions().tolerance) -> None:
        self.canonical = Canonical(tokenizer)
        self.tolerance = tolerance
        start = start_token(tokenizer.vocabulary)
        if start is None:
            raise TokenAdaptError(f"{tokenizer.name} has neither a bos nor an eos token to predict the first byte from")
        self._runs = _Runs(model, start)
        self._place = {int(i): place for place, i in enumerate(self.canonical.ids)}
        self._eos = tokenizer.vocabulary.roles.get("eos")
        self.reset()

    @property
    def num_runs(self) -> int:
        """Number of model runs so far."""
        return self._runs.count

    def reset(self) -> None:
        """Start with an empty text."""
        self._text = b""
        self._fixed: tuple[int, ...] = ()  # leading tokens that later bytes cannot change
        self._fixed_bytes = 0
        self._log_total = 0.0  # log P(text), in nats
        root = Context((), None, 0.0)
        self._by_length: dict[int, list[Context]] = {0: [root]}
        self._by_tokens: dict[tuple[int, ...], Context] = {(): root}
        self._whole: tuple[int, ...] | None = ()  # the tokenizer's tokens for the text; None if it is not UTF-8
        self._next: np.ndarray | None = None
        for byte in self.canonical.dummy_space:
            self.append(byte)
        self._log_space = self._log_total  # every text starts with this space, so `log_mass` does not count it

    def log_probabilities(self) -> np.ndarray:
        """Return the log probabilities of the next byte, and at index `EOS` of the end of the text.

        Returns:
            float64 [257], nats, normalised.

        Raises:
            TokenAdaptError: the text so far has no canonical sequence, because it is not UTF-8.
        """
        if self._next is None:
            self._next = self._masses(None)
        total = self._next.sum()
        if not total > 0:
            raise TokenAdaptError(
                f"the tokenizer has no tokens for the bytes {self._text[-12:]!r}; text has to be UTF-8"
            )
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self._next) - math.log(total))

    def log_probability(self, byte: int) -> float:
        """Return the log probability of one byte or of `EOS`, in nats. A small one is computed without tolerance."""
        value = float(self.log_probabilities()[byte])
        if byte == EOS or self.tolerance == 0 or value > math.log(SURPRISE * self.tolerance):
            return value
        mass = self._masses(byte)[byte]
        assert self._next is not None
        return math.log(mass / self._next.sum()) if mass > 0 else -math.inf

    def log_mass(self) -> float:
        """Return log P(text so far) in nats, as in the lemma and before any normalisation."""
        return self._log_total - self._log_space

    def append(self, byte: int) -> None:
        """Read one more byte.

        Raises:
            TokenAdaptError: no token has this byte here, because the text would not be UTF-8.
        """
        mass = self._masses(byte)[byte] if self._next is None or self._is_small(byte) else self._next[byte]
        if not mass > 0:
            raise TokenAdaptError(
                f"the tokenizer has no token for the byte 0x{byte:02X} after {self._text[-12:]!r}; text has to be UTF-8"
            )
        self._log_total += math.log(mass)
        self._text += bytes([byte])
        self._next = None
        self._add_contexts()

    def _is_small(self, byte: int) -> bool:
        assert self._next is not None
        return bool(self._next[byte] < SURPRISE * self.tolerance * self._next.sum())

    # --- sums over covers

    def _masses(self, wanted: int | None) -> np.ndarray:
        """Return P(x b) / P(x) for each byte b, and P(x, eos) / P(x): float64 [257].

        With `wanted`, compute it for that byte only, and without tolerance.
        """
        masses = np.zeros(257)
        smallest = -math.inf if wanted is not None or self.tolerance == 0 else math.log(self.tolerance / 100)
        for length, context in self._live_contexts():
            # The bound needs no run of the model, so contexts with a negligible share cost nothing.
            if self._bound(context) - self._log_total < smallest:
                continue
            share = math.exp(self._log_probability(context) - self._log_total)
            suffix = self._text[length:]
            for byte, low, high in self._followers(suffix, wanted):
                if smallest == -math.inf:
                    self._check(context, np.arange(low, high))
                masses[byte] += share * self._probabilities_after(context)[low:high].sum()
            if context.tokens == self._whole:
                self._probabilities_after(context)
                masses[EOS] += share * context.eos
        return masses

    def _live_contexts(self) -> list[tuple[int, Context]]:
        """Return (length, context) of all contexts that some token can still continue. Forget the others."""
        for length in list(self._by_length):
            suffix = self._text[length:]
            place = bisect_left(self.canonical.contents, suffix)
            if not any(content.startswith(suffix) for content in self.canonical.contents[place : place + 1]):
                for context in self._by_length.pop(length):
                    del self._by_tokens[context.tokens]
        return [(length, context) for length, contexts in sorted(self._by_length.items()) for context in contexts]

    def _followers(self, suffix: bytes, wanted: int | None) -> Iterator[tuple[int, int, int]]:
        """Yield (byte, low, high): the slice of sorted tokens whose bytes start with the suffix and then that byte."""
        contents = self.canonical.contents
        if wanted == EOS:
            return
        if wanted is not None:
            low = bisect_left(contents, suffix + bytes([wanted]))
            yield wanted, low, _end(contents, suffix + bytes([wanted]))
            return
        low, last = bisect_left(contents, suffix), _end(contents, suffix)
        while low < last and len(contents[low]) == len(suffix):
            low += 1
        while low < last:
            byte = contents[low][len(suffix)]
            high = _end(contents, suffix + bytes([byte]))
            yield byte, low, high
            low = high

    # --- probabilities from the model

    def _probabilities_after(self, context: Context) -> np.ndarray:
        """Return the probabilities after a context. The first call for a context runs the model."""
        if context.masses_V is None:
            probabilities = self._runs.after(context.tokens)
            context.said_V = probabilities[self.canonical.ids]
            context.masses_V = context.said_V.astype(np.float64)
            context.is_checked_V = np.zeros(len(context.said_V), dtype=bool)
            context.eos = float(probabilities[self._eos]) if self._eos is not None else 0.0
            if self.tolerance > 0:
                order = np.argsort(-context.masses_V)
                left = context.masses_V.sum() - context.masses_V[order].cumsum()
                self._check(context, order[: int((left > self.tolerance).sum()) + 1])
        return context.masses_V

    def _check(self, context: Context, places: np.ndarray) -> None:
        """Set the probability of tokens to 0 where they would make a sequence that is not canonical."""
        masses_V = self._probabilities_after(context)
        assert context.is_checked_V is not None
        places = places[~context.is_checked_V[places]]
        if not len(places):
            return
        window = context.tokens[self.canonical.last_boundary(context.tokens) :]
        is_canonical = self.canonical.extend(window, self.canonical.ids[places].tolist())
        masses_V[places[~is_canonical]] = 0.0
        context.is_checked_V[places] = True

    def _log_probability(self, context: Context) -> float:
        """Return the log probability of a context in nats. This may run the model on shorter contexts."""
        if context.log_probability is None:
            assert context.before is not None
            self._probabilities_after(context.before)
            assert context.before.said_V is not None
            last = float(context.before.said_V[self._place[context.tokens[-1]]])
            before = self._log_probability(context.before)
            context.log_probability = before + (math.log(last) if last > 0 else -math.inf)
            context.before = None
        return context.log_probability

    def _bound(self, context: Context) -> float:
        """Return an upper bound of `_log_probability` without running the model: that of a known prefix."""
        if context.log_probability is None and context.before is not None and context.before.said_V is None:
            return self._bound(context.before)
        return self._log_probability(context)

    # --- contexts

    def _add_contexts(self) -> None:
        """Add the canonical sequences for the whole text so far to the contexts."""
        tail = self._text[self._fixed_bytes :]
        for ids in sorted(self.canonical.sequences(tail)):
            self._context(self._fixed + ids)
        encoded = self.canonical.encode(tail)
        self._whole = None if encoded is None else self._fixed + encoded
        if encoded is not None and (place := self.canonical.last_boundary(encoded)):
            self._fixed += encoded[:place]
            self._fixed_bytes += len(self.canonical.bytes_of(encoded[:place]))

    def _context(self, tokens: tuple[int, ...]) -> Context:
        """Return the context of a sequence. It is made, together with its prefixes, if it does not exist."""
        known = self._by_tokens.get(tokens)
        if known is not None:
            return known
        context = Context(tokens, self._context(tokens[:-1]), None) if tokens else Context((), None, 0.0)
        length = len(self.canonical.bytes_of(tokens))
        self._by_length.setdefault(length, []).append(context)
        self._by_tokens[tokens] = context
        return context


def _end(contents: list[bytes], beginning: bytes) -> int:
    """Return the index after the last entry that starts with these bytes, in a sorted list."""
    stem = beginning.rstrip(b"\xff")  # 0xFF has no successor, so the byte before it is increased
    return bisect_left(contents, stem[:-1] + bytes([stem[-1] + 1])) if stem else len(contents)


class _Runs:
    """Runs the model on sequences that share long prefixes, with one key-value cache.

    Recurrent models (Mamba, RWKV, hybrids) keep a state from which tokens cannot be removed. They read each sequence
    from its start.
    """

    def __init__(self, model: Any, start: int) -> None:
        self._model, self._start = model, start
        self._is_recurrent = getattr(model, "_is_stateful", False) or not takes_cache(model)
        self._cache: Any = None
        self._seen: list[int] = []
        self.count = 0

    @torch.inference_mode()
    def after(self, tokens: tuple[int, ...]) -> np.ndarray:
        """Return the probabilities of all ids after the start token and `tokens`, float32 [V]."""
        ids = [self._start, *tokens]
        self.count += 1
        if self._is_recurrent:
            return self._probabilities(ids, len(ids), use_cache=False)
        same = 0
        for one, other in zip(ids[:-1], self._seen, strict=False):  # the last token has to run: its logits are needed
            if one != other:
                break
            same += 1
        if self._cache is None or same == 0:
            self._cache, same = DynamicCache(), 0
        elif same < len(self._seen):
            self._cache.crop(same - len(self._seen))  # a negative length removes that many positions from the end
        cache = {cache_argument(self._model): self._cache}
        probabilities = self._probabilities(ids[same:], len(ids), **cache, use_cache=True)
        self._seen = ids
        return probabilities

    def _probabilities(self, new: list[int], total: int, **options: Any) -> np.ndarray:
        """Run the model on the last of `total` tokens; return the probabilities after them, float32 [V]."""
        device = self._model.device
        mask = torch.ones((1, total), dtype=torch.int64, device=device)
        try:
            out = self._model(torch.tensor([new], device=device), attention_mask=mask, logits_to_keep=1, **options)
        except IndexError as error:  # a position table ends, or a model with another kind of cache
            raise TokenAdaptError(
                f"{type(self._model).__name__} cannot read {total} tokens byte by byte: its position table is "
                f"shorter, or it keeps no key-value cache ({first_line(error)})"
            ) from error
        probabilities: np.ndarray = out.logits[0, -1].float().softmax(dim=0).cpu().numpy()
        return probabilities
