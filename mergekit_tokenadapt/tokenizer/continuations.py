"""Tokenize a context and its continuation, so that the continuation can be scored after the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens, start_token
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles


class Continuation(NamedTuple):
    """Token ids of a context and its continuation."""

    ids: tuple[int, ...]
    first: int
    """Position of the continuation's first token; at least 1."""
    num_bytes: int
    """UTF-8 bytes of the continuation, white space that was moved to it included."""
    keeps_boundary: bool
    """Whether a token ends where the context ends, so that the scored tokens are exactly the continuation."""


@dataclass
class ContinuationEncoder:
    """Tokenizes pairs as lm-evaluation-harness does (``TemplateLM._encode_pair``, for causal models).

    White space at the end of the context moves to the continuation. Both are joined and tokenized together. The
    continuation begins after as many tokens as the context has alone. Where a token ends at the boundary, this is the
    boundary; where the tokenizer joins characters across it, the continuation begins inside or after the joined token.

    Two cases are ours, because the harness fails there: if no token is left for the continuation, both parts are
    tokenized apart; a context of white space alone counts as an empty one. An empty context is the start token (bos,
    else eos). The special tokens that the tokenizer puts before a text (bos of Gemma, for one) are before the context.

    Args:
        tokenizer: the tokenizer's files.
        always_starts: put the start token before each context, also where the tokenizer puts nothing there. Models that
            were trained with such a token (Gemma) need it after a swap to a tokenizer that has none.

    Raises:
        TokenAdaptError: there is no start token to be put there.
    """

    tokenizer: TokenizerFiles
    always_starts: bool = False

    def __post_init__(self) -> None:
        self._fast: Tokenizer = self.tokenizer.fast_tokenizer()
        self._start = start_token(self.tokenizer.vocabulary)
        self._leading = leading_tokens(self.tokenizer)
        if self.always_starts and not self._leading:
            if self._start is None:
                raise TokenAdaptError(f"{self.tokenizer.name} has neither a bos nor an eos token to begin a text with")
            self._leading = (self._start,)

    def encode(self, context: str, continuation: str) -> Continuation:
        """Tokenize one pair.

        Args:
            context: any text; may be empty.
            continuation: not empty.

        Raises:
            TokenAdaptError: the context is empty and the tokenizer has no start token, or the continuation gives no
                token.
        """
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        num_bytes = len(continuation.encode("utf-8"))
        if not kept:
            if self._start is None:
                raise TokenAdaptError(
                    f"{self.tokenizer.name} has neither a bos nor an eos token, from which an answer without context "
                    "could be predicted"
                )
            return self._checked((self._start,), self._ids(continuation), num_bytes, keeps_boundary=True)
        before, whole = self._ids(kept), self._ids(kept + continuation)
        leading = () if self._begins_with_start(before) else self._leading
        if len(whole) <= len(before):
            return self._checked((*leading, *before), self._ids(continuation), num_bytes, keeps_boundary=False)
        own = len(before)
        if not leading and not own:  # the tokenizer drops the whole context
            raise TokenAdaptError(f"{self.tokenizer.name} gives no token for the context {kept[:40]!r}")
        boundary = whole[:own] == before
        return self._checked((*leading, *whole[:own]), whole[own:], num_bytes, keeps_boundary=boundary)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._fast.encode(text, add_special_tokens=False).ids)

    def _begins_with_start(self, ids: tuple[int, ...]) -> bool:
        return bool(ids) and ids[0] == self._start

    def _checked(
        self, context: tuple[int, ...], answer: tuple[int, ...], num_bytes: int, *, keeps_boundary: bool
    ) -> Continuation:
        if not answer:
            raise TokenAdaptError(f"{self.tokenizer.name} gives no token for a continuation of {num_bytes} bytes")
        return Continuation((*context, *answer), len(context), num_bytes, keeps_boundary)
