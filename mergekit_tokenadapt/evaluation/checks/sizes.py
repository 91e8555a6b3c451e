"""Check numbers that have to agree: vocabulary sizes, special ids, tied matrices."""

from __future__ import annotations

from typing import Any

from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.models import read_checkpoint
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.numerics.row_math import difference_of
from mergekit_tokenadapt.output.configs import value_at
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind

SHARED_ROLES = ("bos", "eos", "pad")
"""Roles that config.json, generation_config.json and the tokenizer may all define."""


def check_sizes(model: ModelFolder, base: ModelFolder | None = None) -> Finding:
    """Check that every vocabulary tensor has `vocab_size` rows, and that every token id has a row.

    A nested config that had the base's number of rows has to have the model's.
    """
    vocabulary = model.tokenizer.vocabulary
    configured = model.text_config.get("vocab_size")
    per_layer = {name for name, table in model.checkpoint.stored.items() if table.is_per_layer}
    rows = {
        name: model.tensors.shape(name)[axis]
        for name, axis in model.vocabulary_tensors.items()
        if name not in per_layer  # these may be smaller
    }
    problems = [
        f"{name} has {count:,} rows, but config.json says vocab_size {configured}"
        for name, count in rows.items()
        if count != configured
    ]
    needed = needed_rows(model)
    problems += [
        f"{name} has {count:,} rows, but the highest token id is {needed - 1:,}"
        for name, count in rows.items()
        if count < needed
    ]
    problems += [] if base is None else stale_sizes(model, base)
    lowest = min(rows.values())
    if not problems and lowest < vocabulary.num_ids:
        beyond = ", ".join(repr(t.spelling) for t in vocabulary if t.id >= lowest)
        return Finding("sizes", Status.NOTED, f"{lowest:,} rows, and none for the added tokens {beyond}")
    return passed_unless(
        problems,
        "sizes",
        f"{len(vocabulary):,} tokens, highest id {vocabulary.num_ids - 1:,}, {lowest:,} rows "
        f"({lowest - len(vocabulary):,} without a token), config {configured}",
        tokens=len(vocabulary),
        highest_id=vocabulary.num_ids - 1,
        rows=rows,
        vocab_size=configured,
    )


def needed_rows(model: ModelFolder) -> int:
    """Return the number of rows that a model needs: for text tokens, tokens with a role, and tokens in its chat
    template.

    Published tokenizers may have a few more added tokens than the model has rows (Gemma 3 without its image tower).
    """
    vocabulary = model.tokenizer.vocabulary
    template = model.tokenizer.chat_template or ""
    named = [t.id for t in vocabulary if t.id in vocabulary.roles.values() or _is_written(t, template)]
    return 1 + max(vocabulary.num_text_ids - 1, *named, -1)


def _is_written(token: Token, template: str) -> bool:
    """Return whether a chat template contains this special token."""
    return token.kind is TokenKind.SPECIAL and token.spelling in template


def stale_sizes(model: ModelFolder, base: ModelFolder) -> list[str]:
    """Return a message for each key of the config that still has the base's number of rows. The model's class knows the
    keys.
    """
    before, now = base.text_config.get("vocab_size"), model.text_config.get("vocab_size")
    if before == now:
        return []
    checkpoint = read_checkpoint(base.folder, {name: base.tensors.shape(name) for name in base.tensors})
    keys = () if checkpoint is None else checkpoint.size_keys
    return [
        f"config.json says {'.'.join(key)} {before}, as in the base, where there are {now} rows now"
        for key in keys
        if value_at(base.config, key) == before == value_at(model.config, key)
    ]


def check_special_ids(model: ModelFolder) -> Finding:
    """Check that bos, eos and pad are tokens, and have the same ids in all places that define them.

    A place that does not define a role agrees with all others. A list of eos ids has to contain the tokenizer's eos.
    """
    vocabulary = model.tokenizer.vocabulary
    places = {
        "config.json": model.text_config,
        "generation_config.json": model.generation_config,
        "the tokenizer": {f"{role}_token_id": i for role, i in vocabulary.roles.items()},
    }
    problems, named = [], {}
    for role in SHARED_ROLES:
        ids = {place: _as_set(config.get(f"{role}_token_id")) for place, config in places.items()}
        ids = {place: values for place, values in ids.items() if values}
        named[role] = {place: sorted(values) for place, values in ids.items()}
        if ids and not set.intersection(*ids.values()):
            listed = ", ".join(f"{'/'.join(map(str, sorted(v)))} in {place}" for place, v in ids.items())
            problems.append(f"{role} is {listed}")
        unknown = sorted({i for values in ids.values() for i in values if i not in vocabulary.by_id})
        problems += [f"{role} id {i} is not a token" for i in unknown]
    missing = [role for role, declared in named.items() if not declared]
    words = ", ".join(
        f"{role} {'/'.join(map(str, sorted({i for ids in declared.values() for i in ids})))}"
        for role, declared in named.items()
        if declared
    )
    good = f"{words or 'no special ids'} everywhere" + (f"; no {', '.join(missing)}" if missing else "")
    return passed_unless(problems, "special ids", good, ids=named)


def _as_set(value: Any) -> set[int]:
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}


def check_tied(model: ModelFolder) -> Finding:
    """Check that the stored tensors agree with ``tie_word_embeddings`` in config.json."""
    tied = model.checkpoint.tables.is_tied
    first, second = model.input_matrix, model.output_matrix
    problems = []
    if not tied and second is None:
        problems.append(
            f"tie_word_embeddings is false, but {first} is the only vocabulary matrix: "
            "the output matrix would be random"
        )
    if tied and second is not None and difference_of(model.rows(first), model.rows(second)):
        problems.append(f"tie_word_embeddings is true, but {second} is stored with other values than {first}")
    return passed_unless(problems, "tied", "tied" if tied else "untied, both matrices stored", tied=tied)
