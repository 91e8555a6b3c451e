"""The next byte, asked of a model of tokens: exact, without training or another vocabulary.

Byte-Token Representation Lemma (Phan et al., "Exact Byte-Level Probabilities from Tokenized Language
Models", arXiv 2410.09303, section 3): the probability of a text's first n bytes is the sum over its
*covers*, the canonical sequences of tokens of which the last one reaches byte n or beyond,

    P(x) = sum over covers t of x of P(t),     P(b | x) = P(x b) / (sum over b' of P(x b') + P(x, eos)).

All covers are a canonical sequence for x[:i] (a *context* at cut i) and one more token that begins with
x[i:]. So each context needs one run of the model, and its mass is a sum over neighbours in the list of
tokens sorted by their bytes, which serves as a trie. A model gives some probability to sequences that
are not canonical; they are left out, and what remains is normalised.
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
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.cache_names import cache_argument
from mergekit_tokenadapt.tokenizer.encoded_text import start_token
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles

EOS = 256
"""The outcome that follows the 256 bytes: the end of the text."""
TOLERANCE = 1e-2
SURPRISE = 10
"""A byte less likely than this many tolerances is worked out anew, without any."""


@dataclass(eq=False)
class Context:
    """A canonical sequence of tokens, and what the model says after it."""

    tokens: tuple[int, ...]
    before: Context | None
    """The sequence without its last token; None once `log_probability` is known."""
    log_probability: float | None = None
    """Of all its tokens, nats; None until it is asked for."""
    said_V: np.ndarray | None = None
    """Probability of the next token, by its place in the sorted list, float32; None until it is asked for."""
    masses_V: np.ndarray | None = None
    """The same, float64, with 0 where the sequence with that token would not be canonical."""
    is_checked_V: np.ndarray | None = None
    """Where that has been found out, bool."""
    eos: float = 0.0


class ByteModel:
    """Reads a text byte by byte, and gives the distribution of the next one.

    Args:
        model: a causal language model of transformers whose cache can be cropped.
        tokenizer: its tokenizer.
        tolerance: the probability, after each context, of tokens that are not checked for being canonical; a
            hundredth of it is the least share of a context that is asked about. Bytes less likely than
            ten times it are worked out without it. 0: exact, and slow.

    Raises:
        TokenAdaptError: the tokenizer is of another kind (see `Canonical`), or has neither bos nor eos.
    """

    def __init__(self, model: Any, tokenizer: TokenizerFiles, *, tolerance: float = TOLERANCE) -> None:
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
        """Runs of the model so far."""
        return self._runs.count

    def reset(self) -> None:
        """Start with an empty text."""
        self._text = b""
        self._fixed: tuple[int, ...] = ()  # tokens that no later byte can change
        self._fixed_bytes = 0
        self._log_total = 0.0  # of the text
        root = Context((), None, 0.0)
        self._by_cut: dict[int, list[Context]] = {0: [root]}
        self._by_tokens: dict[tuple[int, ...], Context] = {(): root}
        self._whole: tuple[int, ...] | None = ()  # what the tokenizer makes of the text, if it is UTF-8
        self._next: np.ndarray | None = None
        for byte in self.canonical.dummy_space:
            self.append(byte)
        self._log_space = self._log_total  # always there: nothing to be paid for it

    def log_probabilities(self) -> np.ndarray:
        """Of the next byte, and at `EOS` of the end: float64 [257], nats; normalised.

        Raises:
            TokenAdaptError: the text so far has no canonical sequence (it is not UTF-8).
        """
        if self._next is None:
            self._next = self._masses(None)
        total = self._next.sum()
        if not total > 0:
            raise TokenAdaptError(f"the bytes {self._text[-12:]!r} are none that the tokenizer can make")
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self._next) - math.log(total))

    def log_probability(self, byte: int) -> float:
        """Of one byte, or of `EOS`; worked out without tolerance where it is small."""
        value = float(self.log_probabilities()[byte])
        if byte == EOS or self.tolerance == 0 or value > math.log(SURPRISE * self.tolerance):
            return value
        mass = self._masses(byte)[byte]
        assert self._next is not None
        return math.log(mass / self._next.sum()) if mass > 0 else -math.inf

    def log_mass(self) -> float:
        """Log probability of the text so far as the lemma has it, before any normalising (nats)."""
        return self._log_total - self._log_space

    def append(self, byte: int) -> None:
        """Read one more byte.

        Raises:
            TokenAdaptError: no token makes it here (the text would not be UTF-8).
        """
        mass = self._masses(byte)[byte] if self._next is None or self._is_small(byte) else self._next[byte]
        if not mass > 0:
            raise TokenAdaptError(
                f"the byte 0x{byte:02X} after {self._text[-12:]!r} is none that the tokenizer can make"
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
        """P(x b) / P(x) for each byte b, and P(x, eos) / P(x): float64 [257].

        With `wanted`, of that byte only, and without tolerance.
        """
        masses = np.zeros(257)
        smallest = -math.inf if wanted is not None or self.tolerance == 0 else math.log(self.tolerance / 100)
        for cut, context in self._live_contexts():
            if self._bound(context) - self._log_total < smallest:
                continue
            share = math.exp(self._log_probability(context) - self._log_total)
            suffix = self._text[cut:]
            for byte, low, high in self._followers(suffix, wanted):
                if smallest == -math.inf:
                    self._check(context, np.arange(low, high))
                masses[byte] += share * self._ask(context)[low:high].sum()
            if context.tokens == self._whole:
                self._ask(context)
                masses[EOS] += share * context.eos
        return masses

    def _live_contexts(self) -> list[tuple[int, Context]]:
        """(cut, context) of those that some token can still continue; the others are forgotten."""
        for cut in list(self._by_cut):
            suffix = self._text[cut:]
            place = bisect_left(self.canonical.contents, suffix)
            if not any(content.startswith(suffix) for content in self.canonical.contents[place : place + 1]):
                for context in self._by_cut.pop(cut):
                    del self._by_tokens[context.tokens]
        return [(cut, context) for cut, contexts in sorted(self._by_cut.items()) for context in contexts]

    def _followers(self, suffix: bytes, wanted: int | None) -> Iterator[tuple[int, int, int]]:
        """(byte, low, high): places of the tokens that begin with the suffix and that byte."""
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

    # --- what the model says

    def _ask(self, context: Context) -> np.ndarray:
        """The masses after a context; runs the model at the first time."""
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
        """Give tokens that would not be canonical after a context no mass."""
        masses_V = self._ask(context)
        assert context.is_checked_V is not None
        places = places[~context.is_checked_V[places]]
        if not len(places):
            return
        window = context.tokens[self.canonical.cut(context.tokens) :]
        is_canonical = self.canonical.extend(window, self.canonical.ids[places].tolist())
        masses_V[places[~is_canonical]] = 0.0
        context.is_checked_V[places] = True

    def _log_probability(self, context: Context) -> float:
        if context.log_probability is None:
            assert context.before is not None
            self._ask(context.before)
            assert context.before.said_V is not None
            last = float(context.before.said_V[self._place[context.tokens[-1]]])
            before = self._log_probability(context.before)
            context.log_probability = before + (math.log(last) if last > 0 else -math.inf)
            context.before = None
        return context.log_probability

    def _bound(self, context: Context) -> float:
        """What `_log_probability` cannot exceed, without a run of the model."""
        if context.log_probability is None and context.before is not None and context.before.said_V is None:
            return self._bound(context.before)
        return self._log_probability(context)

    # --- contexts

    def _add_contexts(self) -> None:
        """The canonical sequences for the text so far become contexts."""
        tail = self._text[self._fixed_bytes :]
        for ids in sorted(self.canonical.sequences(tail)):
            self._context(self._fixed + ids)
        encoded = self.canonical.encode(tail)
        self._whole = None if encoded is None else self._fixed + encoded
        if encoded is not None and (place := self.canonical.cut(encoded)):
            self._fixed += encoded[:place]
            self._fixed_bytes += len(self.canonical.bytes_of(encoded[:place]))

    def _context(self, tokens: tuple[int, ...]) -> Context:
        """The context of a sequence, made where it is not known, as are those before it."""
        known = self._by_tokens.get(tokens)
        if known is not None:
            return known
        context = Context(tokens, self._context(tokens[:-1]), None) if tokens else Context((), None, 0.0)
        cut = len(self.canonical.bytes_of(tokens))
        self._by_cut.setdefault(cut, []).append(context)
        self._by_tokens[tokens] = context
        return context


def _end(contents: list[bytes], beginning: bytes) -> int:
    """Where the entries that begin with these bytes end in a sorted list."""
    stem = beginning.rstrip(b"\xff")
    return bisect_left(contents, stem[:-1] + bytes([stem[-1] + 1])) if stem else len(contents)


class _Runs:
    """Runs of the model on sequences that have most of their beginning in common, with one cache."""

    def __init__(self, model: Any, start: int) -> None:
        self._model, self._start = model, start
        self._cache: Any = None
        self._seen: list[int] = []
        self.count = 0

    @torch.inference_mode()
    def after(self, tokens: tuple[int, ...]) -> np.ndarray:
        """Probabilities of all ids after the start token and these, float32."""
        ids = [self._start, *tokens]
        same = 0
        for one, other in zip(ids[:-1], self._seen, strict=False):  # the last one is run again
            if one != other:
                break
            same += 1
        if self._cache is None or same == 0:
            self._cache, same = DynamicCache(), 0
        elif same < len(self._seen):
            self._cache.crop(same - len(self._seen))  # below 0: so many positions off the end
        device = self._model.device
        mask = torch.ones((1, len(ids)), dtype=torch.int64, device=device)
        inputs = torch.tensor([ids[same:]], device=device)
        cache = {cache_argument(self._model): self._cache}
        out = self._model(inputs, attention_mask=mask, **cache, use_cache=True, logits_to_keep=1)
        self._seen = ids
        self.count += 1
        probabilities: np.ndarray = out.logits[0, -1].float().softmax(dim=0).cpu().numpy()
        return probabilities
