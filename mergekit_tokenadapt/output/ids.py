"""Translate the token ids in a config from the base vocabulary to the target vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap, has_other_token_for_role

NO_FALLBACK = ("bos", "pad")
"""Roles that a model does not need. If the target tokenizer has no token for them, the config names none."""
TEXT = (TokenKind.ORDINARY, TokenKind.BYTE)
"""Kinds of tokens that stand for text."""


class SpecialIds:
    """The translation of token ids from the base vocabulary to the target vocabulary.

    Args:
        base: the base vocabulary.
        target: the target vocabulary.
        mapping: the base row of each target row.
        new_bos: id of the token that becomes bos in the output's tokenizer; None if the target's bos stays.
        definition: the content of the target's tokenizer.json, to segment texts; None: phrases are translated id by id.
    """

    def __init__(
        self,
        base: Vocabulary,
        target: Vocabulary,
        mapping: VocabularyMap,
        *,
        new_bos: int | None = None,
        definition: Definition | None = None,
    ) -> None:
        self.base, self.target, self._mapping, self._new_bos = base, target, mapping, new_bos
        self._definition = definition
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

    def _preference(self, row: int) -> tuple[bool, bool, int]:
        """Return a sort key: tokens that the tokenizer produces come before byte twins, then eos, then lower ids."""
        return row in self.target.byte_twins, row != self.target.roles.get("eos"), row

    def _is_user_match(self, row: int, source: int) -> bool:
        """Return whether the user matched two tokens (`token_map`), as neither spelling nor role would match them."""
        old, new = self.base.by_id.get(source), self.target.by_id[row]
        return old is not None and old.spelling != new.spelling and row not in self.target.roles.values()

    def new_id(self, old: int) -> int | None:
        """Return the id of the special or added target token with the same spelling, else of the one with its row.

        A token of the same spelling that has another token's row, or that is text where another token has the role
        (Gemma's HTML tag ``</s>``), is another token.

        Args:
            old: an id of the base vocabulary.

        Returns:
            An id of the target vocabulary; None if no target token corresponds to `old`.
        """
        token = self.base.by_id.get(old)
        if token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            same = self.target.by_spelling.get(token.spelling)
            if same is not None and self._is_same(same, old):
                return same.id
        return self._by_source.get(old)

    def _is_same(self, new: Token, old: int) -> bool:
        """Return whether a target token with the spelling of a base token is that token."""
        if (source := int(self._mapping.sources[new.id])) >= 0:
            return source == old
        is_special = new.kind is TokenKind.SPECIAL
        return is_special or not has_other_token_for_role(self.base, self.target, old, new.id)

    def phrase(self, old: Sequence[int]) -> list[int] | None:
        """Return the ids with which the target tokenizer writes the text of base tokens.

        Args:
            old: ids of the base vocabulary.

        Returns:
            Ids of the target vocabulary; None if the phrase has to be translated id by id: it is one token that the
            target has, too, or not all of it is text, or the target cannot write the text.
        """
        if self._segmenter is None or (len(old) == 1 and self.new_id(old[0]) is not None):
            return None
        tokens = [token for i in old if (token := self.base.by_id.get(i)) and token.kind in TEXT]
        if len(tokens) < len(old):
            return None
        text = b"".join(token.bytes for token in tokens)
        ids: list[int] = self._segmenter.segment([text])[0].tolist()
        return ids if b"".join(self.target.by_id[i].bytes for i in ids) == text else None

    @cached_property
    def _segmenter(self) -> Segmenter | None:
        """Segments texts with the target tokenizer; None if there is no need or no definition."""
        if self._definition is None or self._mapping.is_identity:
            return None
        return Segmenter(self._definition, self.target)

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

    def other_eos(self, old: int | None) -> int | None:
        """Return the counterpart of a config's eos id that is not the eos of the base's tokenizer.

        A chat model may stop at ``<|im_end|>``, and its tokenizer may still say ``<|endoftext|>``.

        Returns:
            An id of the target vocabulary; None if `old` is the tokenizer's eos, is None, or has no counterpart.
        """
        return None if old is None or old == self.base.roles.get("eos") else self.new_id(old)

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
