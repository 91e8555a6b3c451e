"""Check token ids in configs other than those of special tokens, and the longest text that configs allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.evaluation.origins import RowOrigins
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.output.configs import VOCAB_SIZE, Path, foreign_sections, nested_sections, value_at
from mergekit_tokenadapt.output.id_keys import role_of
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.output.limits import TURNING, limit_of, positions_of
from mergekit_tokenadapt.output.translation import Lost, translate
from mergekit_tokenadapt.transfer.matching import match

_TABLE = re.compile(r"(^|\.)(wpe|pos\w*emb\w*|embed_positions|position_embeddings)\.weight$")
"""Matches the name of a table with one row for each position."""

Configs = Mapping[str, Mapping[str, Any]]
"""File name -> content."""


def check_config_ids(model: ModelFolder, origins: RowOrigins | None) -> Finding:
    """Check that every id in the configs is a token of this tokenizer, and not still an id of the base's tokenizer."""
    unknown = [(file, lost) for file, lost in _unknown_ids(model) if role_of(lost.path[-1]) is None]
    beyond = [
        f"{file}: {lost.key} is {_listed(lost)}, beyond the rows" for file, lost in unknown if _is_beyond(lost, model)
    ]
    problems = beyond + list(_stale_ids(model, origins))
    finding = passed_unless(problems, "config ids", "every other id in the configs is a token's")
    if finding.status is Status.PASSED and unknown:
        words = "; ".join(f"{file}: {lost.key} is {_listed(lost)}, which is no token" for file, lost in unknown[:3])
        return Finding("config ids", Status.NOTED, words)
    return finding


def check_length(model: ModelFolder, base: ModelFolder | None) -> Finding:
    """Check that the tokenizer does not allow longer texts than the model has positions."""
    stated, positions = limit_of(model.tokenizer.config), positions_of(model.config)
    if stated is None or positions is None or stated <= positions:
        words = "no limit" if stated is None else f"the tokenizer's {stated:,}"
        return Finding("length", Status.PASSED, f"{words}, the model's {positions or 'not stated'}")
    message = f"the tokenizer's model_max_length is {stated:,}, but the model has {positions:,} positions"
    # A model without a position table can go beyond its stated length, and some tokenizers allow that on purpose.
    has_table = not any(model.text_config.get(key) for key in TURNING) and any(map(_TABLE.search, model.tensors))
    is_new = base is not None and limit_of(base.tokenizer.config) != stated
    return Finding("length", Status.FAILED if is_new or has_table else Status.NOTED, message)


def _configs(model: ModelFolder) -> Configs:
    return {"config.json": model.config, "generation_config.json": model.generation_config}


def _foreign(model: ModelFolder) -> frozenset[Path]:
    """Return the nested configs whose ids belong to another vocabulary, which their sizes show."""
    rows = model.text_config.get(VOCAB_SIZE)
    sections = nested_sections(model.config)
    return foreign_sections(model.config, [(*p, VOCAB_SIZE) for p, each in sections if each.get(VOCAB_SIZE) == rows])


def _unknown_ids(model: ModelFolder) -> Iterator[tuple[str, Lost]]:
    """Yield the ids that are no token of the model's own tokenizer."""
    vocabulary = model.tokenizer.vocabulary
    own = SpecialIds(vocabulary, vocabulary, match(vocabulary, vocabulary))
    for file, content in _configs(model).items():
        for lost in translate(content, own, _foreign(model)).lost:
            yield file, lost


def _stale_ids(model: ModelFolder, origins: RowOrigins | None) -> Iterator[str]:
    """Yield a message for each id that is still the base's, although its token has another id now."""
    if origins is None or origins.base is None:
        return
    base = origins.base
    new = model.tokenizer
    ids = SpecialIds(base.tokenizer.vocabulary, new.vocabulary, origins.mapping, definition=new.definition)
    before = _configs(base)
    for file, content in _configs(model).items():
        for path, wanted in translate(before[file], ids, _foreign(base)).places.items():
            old, now = value_at(before[file], path), value_at(content, path)
            if role_of(path[-1]) is None and now is not None and now == old != wanted:
                yield f"{file}: {'.'.join(path)} is still {now}, as in the base, where it is now {wanted}"


def _is_beyond(lost: Lost, model: ModelFolder) -> bool:
    return any(i >= model.num_rows for i in lost.ids)


def _listed(lost: Lost) -> str:
    return ", ".join(map(str, lost.ids[:5]))
