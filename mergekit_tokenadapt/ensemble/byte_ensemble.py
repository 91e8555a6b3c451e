"""Average models with any tokenizers byte by byte, to score a text or to continue it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_tokenadapt.ensemble.build import normalised_weights
from mergekit_tokenadapt.ensemble.byte_model import EOS, ByteModel
from mergekit_tokenadapt.ensemble.options import ByteOptions, EnsembleOptions
from mergekit_tokenadapt.errors import TokenAdaptError

BY_BYTE = ByteOptions()
"""The defaults."""


@dataclass
class ByteEnsemble:
    """The weighted mean of the members' distributions of the next byte. An ensemble may have a single member."""

    members: Sequence[ByteModel]
    """The models."""
    weights: Sequence[float] = ()
    """One positive weight for each member, or none for equal ones."""
    mean: str = EnsembleOptions().mean
    """``arithmetic`` or ``geometric``. A geometric mean is normalised again."""

    def __post_init__(self) -> None:
        self.weights = normalised_weights(self.weights, len(self.members))

    def reset(self) -> None:
        """Start with an empty text."""
        for member in self.members:
            member.reset()

    def read(self, content: bytes) -> None:
        """Read bytes. They may end within a token or a character."""
        for byte in content:
            for member in self.members:
                member.append(byte)

    def log_probabilities(self) -> np.ndarray:
        """Return the log probabilities of the next byte, and at index `EOS` of the end of the text: float64 [257],
        nats.
        """
        return self._mean(np.stack([member.log_probabilities() for member in self.members]))

    def _mean(self, members_MB: np.ndarray) -> np.ndarray:
        shares = np.array(self.weights)[:, None]
        if self.mean == "geometric":
            with np.errstate(invalid="ignore"):  # 0 * -inf
                average = (shares * members_MB).sum(axis=0)
            return np.asarray(average - _log_sum(average))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log((shares * np.exp(members_MB)).sum(axis=0)))

    def score(self, text: str) -> tuple[float, np.ndarray]:
        """Return the bits of a text for the ensemble, and for each member alone: float64 [members]."""
        self.reset()
        total, each = 0.0, np.zeros(len(self.members))
        for byte in text.encode("utf-8"):
            members = np.stack([member.log_probabilities() for member in self.members])
            exact = np.array([member.log_probability(byte) for member in self.members])
            if self.mean == "arithmetic":
                probability = float((np.array(self.weights) * np.exp(exact)).sum())
                if probability == 0:
                    raise TokenAdaptError(f"no model of the ensemble can make the byte {byte:#04x} of the text")
                total -= math.log(probability)
            else:
                members[:, byte] = exact
                total -= float(self._mean(members)[byte])
            each -= exact
            for member in self.members:
                member.append(byte)
        return total / math.log(2), each / math.log(2)

    def generate(
        self, prompt: str | bytes, max_bytes: int, *, temperature: float = BY_BYTE.temperature, seed: int = BY_BYTE.seed
    ) -> bytes:
        """Continue a prompt until the end of the text, or for `max_bytes` bytes.

        Args:
            prompt: text or bytes.
            max_bytes: largest number of bytes to generate.
            temperature: temperature of sampling; 0 takes the most likely byte.
            seed: seed of sampling.

        Raises:
            TokenAdaptError: a member's tokenizer cannot make the prompt.
        """
        self.reset()
        # An argument of a command line whose bytes end inside a character reaches us with surrogates.
        self.read(prompt.encode("utf-8", "surrogateescape") if isinstance(prompt, str) else prompt)
        generator = np.random.default_rng(seed)
        made = bytearray()
        for _ in range(max_bytes):
            log_probabilities = self.log_probabilities()
            if temperature == 0:
                byte = int(log_probabilities.argmax())
            else:
                scaled = log_probabilities / temperature
                byte = int(generator.choice(EOS + 1, p=np.exp(scaled - _log_sum(scaled))))
            if byte == EOS:
                break
            made.append(byte)
            self.read(bytes([byte]))
        return bytes(made)


def _log_sum(values: np.ndarray) -> float:
    """Return the logarithm of the sum of exponentials."""
    largest = float(values.max())
    return largest + math.log(float(np.exp(values - largest).sum()))
