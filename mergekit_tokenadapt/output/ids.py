"""Translate the token ids in a config from the base vocabulary to the target vocabulary."""

from __future__ import annotations

from typing import Any

from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap

NO_FALLBACK = ("bos", "pad")
"""Roles that a model does not need. If the target tokenizer has no token for them, the config names none."""


class SpecialIds:
    """The translation of token ids from the base vocabulary to the target vocabulary.

    Args:
        base: the base vocabulary.
        target: the target vocabulary.
        mapping: the base row of each target row.
        new_bos: id of the token that becomes bos in the output's tokenizer; None if the target's bos stays.
    """

    def __init__(
        self, base: Vocabulary, target: Vocabulary, mapping: VocabularyMap, *, new_bos: int | None = None
    ) -> None:
        self.base, self.target, self._new_bos = base, target, new_bos
        self._by_source: dict[int, int] = {}
        self._sources = {row: int(mapping.sources[row]) for row in mapping.ids(Reason.SPECIAL).tolist()}
        # A special counterpart takes precedence over a token with the same bytes.
        for reason in (Reason.SPECIAL, Reason.COPIED):
            for row in sorted(mapping.ids(reason).tolist(), key=self._preference):
                if (source := int(mapping.sources[row])) >= 0:
                    self._by_source.setdefault(source, row)
        self._matched_by_user = {
            source: row for row, source in self._sources.items() if self._is_user_match(row, source)
        }

    def _preference(self, row: int) -> tuple[bool, int]:
        """Return a sort key that prefers tokens that the tokenizer produces to byte twins, then lower ids."""
        return row in self.target.byte_twins, row

    def _is_user_match(self, row: int, source: int) -> bool:
        """Return whether the user matched two tokens (`token_map`), as neither spelling nor role would match them."""
        old, new = self.base.by_id.get(source), self.target.by_id[row]
        return old is not None and old.spelling != new.spelling and row not in self.target.roles.values()

    def new_id(self, old: int) -> int | None:
        """Return the id of the special or added target token with the same spelling, else of the one with its row.

        Args:
            old: an id of the base vocabulary.

        Returns:
            An id of the target vocabulary; None if no target token corresponds to `old`.
        """
        token = self.base.by_id.get(old)
        same = self.target.by_spelling.get(token.spelling) if token else None
        if same is not None and token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            return same.id
        return self._by_source.get(old)

    def new_token(self, old: int) -> Token | None:
        """Return the target token of `new_id`; None if there is none."""
        new = self.new_id(old)
        return None if new is None else self.target.by_id.get(new)

    def in_role(self, role: str, old: int | None) -> int | None:
        """Return the new id for a role to which the config gives the id `old`.

        The target tokenizer's own token for the role is used if it names one. Otherwise the counterpart of `old` is
        used, so that generation still stops at eos. For bos and pad (`NO_FALLBACK`), only a counterpart that the user
        chose with `token_map` is used: bos and pad must never become a token of another purpose.

        Args:
            role: the role, for instance ``eos``.
            old: the id in the config; None if the config names no token.

        Returns:
            The new id; None if the new config shall name no token.
        """
        own = self._new_bos if role == "bos" and self._new_bos is not None else self.target.roles.get(role)
        if own is not None and (old is not None or role in ("bos", "eos", "pad")):
            return own
        if old is None or role in NO_FALLBACK:
            return None if old is None else self._matched_by_user.get(old)
        return self.new_id(old)

    def with_twins(self, eos: Any) -> Any:
        """Add to the eos ids all special tokens that got the same base row as one of them.

        A base token may have several roles (bos = eos = unk, pad = eos) for which the target has separate tokens. Their
        output rows are copies, so their logits are equal, and the model may generate any of them to stop.

        Args:
            eos: an id, a list of ids, or None, of the target vocabulary.

        Returns:
            `eos` itself if nothing is added, else a list.
        """
        own = eos if isinstance(eos, list) else [eos]
        sources = {self._sources.get(i, -1) for i in own} - {-1}
        twins = [row for row, source in self._sources.items() if source in sources and row not in own]
        return [*own, *twins] if twins else eos
