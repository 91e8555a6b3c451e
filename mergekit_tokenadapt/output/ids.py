"""Token ids as the new vocabulary numbers them."""

from __future__ import annotations

from typing import Any

from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap

NO_FALLBACK = ("bos", "pad")
"""Roles that a model does without: where the target tokenizer has no such token, the config names none either."""


class SpecialIds:
    """Old special ids to new ones, for everything in a config that holds token ids."""

    def __init__(self, base: Vocabulary, target: Vocabulary, mapping: VocabularyMap) -> None:
        self.base, self.target = base, target
        self._by_source: dict[int, int] = {}
        self._sources = {row: int(mapping.sources[row]) for row in mapping.ids(Reason.SPECIAL).tolist()}
        for reason in (Reason.SPECIAL, Reason.COPIED):
            for row in sorted(mapping.ids(reason).tolist(), key=self._unlikeness):
                if (source := int(mapping.sources[row])) >= 0:
                    self._by_source.setdefault(source, row)
        self._by_choice = {source: row for row, source in self._sources.items() if self._is_choice(row, source)}

    def _unlikeness(self, row: int) -> tuple[bool, int]:
        """Of several tokens with a token's row, the first by this stands for it: one that texts are cut into."""
        return row in self.target.byte_twins, row

    def _is_choice(self, row: int, source: int) -> bool:
        """Whether the user let a token stand for another: neither string nor role would have matched them."""
        old, new = self.base.by_id.get(source), self.target.by_id[row]
        return old is not None and old.spelling != new.spelling and row not in self.target.roles.values()

    def new_id(self, old: int) -> int | None:
        """The target token with the same string, else the one that got the old token's row, else None."""
        token = self.base.by_id.get(old)
        same = self.target.by_spelling.get(token.spelling) if token else None
        if same is not None and token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            return same.id
        return self._by_source.get(old)

    def new_token(self, old: int) -> Token | None:
        """The token of `new_id`."""
        new = self.new_id(old)
        return None if new is None else self.target.by_id.get(new)

    def in_role(self, role: str, old: int | None) -> int | None:
        """The new id for a role that a config gives the id `old`; None stands for no token.

        It is what the target tokenizer says. Where that does not name a token for the role, the base's may be
        there all the same, which keeps a generation stopping and masks masked. bos and pad (`NO_FALLBACK`) are
        then None, unless the user lets a token stand for them: never id 0, and never a token that is there for
        something else.
        """
        own = self.target.roles.get(role)
        if own is not None and (old is not None or role in ("bos", "eos", "pad")):
            return own
        if old is None or role in NO_FALLBACK:
            return None if old is None else self._by_choice.get(old)
        return self.new_id(old)

    def with_twins(self, eos: Any) -> Any:
        """The eos ids with all special tokens that got the row of one of them; a list where these are several.

        A base token may have several roles (bos = eos = unk, pad = eos), for which the target has a token each.
        Their logits are equal, so that any of them may come where the base model stopped.
        """
        own = eos if isinstance(eos, list) else [eos]
        sources = {self._sources.get(i, -1) for i in own} - {-1}
        twins = [row for row, source in self._sources.items() if source in sources and row not in own]
        return [*own, *twins] if twins else eos
