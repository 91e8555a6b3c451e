"""Token ids in configs, as the new vocabulary numbers them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mergekit_tokenadapt.matching import Reason
from mergekit_tokenadapt.plan import TransferPlan
from mergekit_tokenadapt.tokenizer_files import ROLES
from mergekit_tokenadapt.vocabulary import TokenKind, Vocabulary

LOG = logging.getLogger(__name__)


class SpecialIds:
    """Old special ids to new ones, for everything in a config that holds token ids."""

    def __init__(self, base: Vocabulary, target: Vocabulary, plan: TransferPlan) -> None:
        self._base, self._target = base, target
        self._by_source: dict[int, int] = {}
        self._sources = {row: int(plan.mapping.sources[row]) for row in plan.mapping.ids(Reason.SPECIAL).tolist()}
        for reason in (Reason.SPECIAL, Reason.COPIED):
            for row in plan.mapping.ids(reason).tolist():
                if (source := int(plan.mapping.sources[row])) >= 0:
                    self._by_source.setdefault(source, row)

    def new_id(self, old: int) -> int | None:
        """The target token with the same string, else the one that got the old token's row, else None."""
        token = self._base.by_id.get(old)
        same = self._target.by_spelling.get(token.spelling) if token else None
        if same is not None and token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            return same.id
        return self._by_source.get(old)

    def with_twins(self, eos: Any) -> Any:
        """The eos ids with all special tokens that got the row of one of them; a list where these are several.

        A base token may have several roles (bos = eos = unk, pad = eos), for which the target has a token each.
        Their logits are equal, so that any of them may come where the base model stopped.
        """
        own = eos if isinstance(eos, list) else [eos]
        sources = {self._sources.get(i, -1) for i in own} - {-1}
        twins = [row for row, source in self._sources.items() if source in sources and row not in own]
        return [*own, *twins] if twins else eos

    def translate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a config in which every token id means the same in the new vocabulary.

        bos, eos and pad are what the target tokenizer says; a role that it does not have is None,
        never id 0. The one exception is a missing eos, without which generation would not stop: it is
        kept where the target has the base's token. A list of eos ids stays a list.
        """
        result = dict(config)
        for key, value in config.items():
            if isinstance(value, Mapping):
                result[key] = self.translate(value)
            elif key.endswith("_token_id"):
                result[key] = self._role_ids(key.removesuffix("_token_id"), value)
            elif key in ("suppress_tokens", "begin_suppress_tokens") and value is not None:
                result[key] = [i for i in map(self.new_id, value) if i is not None]
            elif key in ("bad_words_ids", "force_words_ids") and value is not None:
                lists = [[self.new_id(i) for i in ids] for ids in value]
                result[key] = [ids for ids in lists if None not in ids] or None
        return result

    def _role_ids(self, role: str, value: Any) -> Any:
        own = self._target.roles.get(role)
        if isinstance(value, list):
            kept = [i for i in map(self.new_id, value) if i is not None]
            return list(dict.fromkeys(([own] if own is not None else []) + kept)) or None
        if own is not None and (value is not None or role in ("bos", "eos", "pad")):
            return own
        if value is None or (role in ROLES and role != "eos"):
            return None
        new = self.new_id(value)
        if new is None:
            LOG.warning("%s_token_id was %s in the base model; the target tokenizer has no such token", role, value)
        return new
