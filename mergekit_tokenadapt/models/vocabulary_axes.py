"""Which tensors of a checkpoint have a vocabulary axis, found by what they are.

A model's class is built twice, the second time with one more token: the axes that grew are vocabulary axes,
whatever their tensors are called. A position table that happens to have as many rows does not grow.

Which stored tensor belongs to which parameter is asked of transformers, too: tensors that may be tables are
given a wrong size, each another one, and what it reports as mismatched says which parameter each was for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.classes import CannotBuild, Loading, ModelClass, Shape, nested_configs

MAIN_KEY, PER_LAYER_KEY = "vocab_size", "vocab_size_per_layer_input"
_SIZE_KEY = re.compile(r"vocab")
_NOT_TOKENS = re.compile(r"type_vocab|modality|task")
"""Tables of token types and the like, which a tokenizer's ids do not index."""
_TABLE = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|tok_embeddings|word_embeddings|embeddings?|embed|emb)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|head)\.weight$")
"""What tables are called, for those that the class itself does not load."""
BUFFERS = (".inv_freq", ".position_ids", ".masked_bias", ".attn.bias")
"""Ends of names of tensors that older checkpoints hold, and that models make themselves."""
_WRONG_SIZE = 10_000_019
"""Sizes that stand for stored tensors start here."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class VocabularyTables:
    """The parameters of a model class that have a vocabulary axis."""

    axes: Mapping[str, int]
    """Parameter to that axis."""
    shapes: Mapping[str, Shape]
    """Parameter to its shape."""
    sizes: Mapping[Key, int]
    """The keys of the config that say how many rows there are, as paths, and what they say."""
    per_layer: frozenset[str]
    """Tables that may have fewer rows than the vocabulary: the class takes row 0 for ids beyond them."""
    input: str
    """The parameter of the input embedding."""
    output: str | None
    """The parameter of the output matrix, tied or not."""
    is_tied: bool
    """Whether these two are one."""


@dataclass(frozen=True)
class StoredTable:
    """A tensor of a checkpoint that has a vocabulary axis."""

    axis: int
    parameter: str | None
    """What it is loaded into; None for a layer that the class does not load, and other engines do."""
    is_output: bool
    """Whether it is an output matrix."""
    is_per_layer: bool = False
    """See `VocabularyTables.per_layer`."""


def find_tables(model: ModelClass, small: Loading) -> VocabularyTables:
    """Ask the class which of its parameters and buffers grow with the vocabulary.

    Args:
        model: the class, with a pad id that it has a row for.
        small: the class as it is; any checkpoint will do.

    Raises:
        TokenAdaptError: the class has no input embedding that grows with a size in its config,
            or has a table that the ids of one tokenizer do not index.
    """
    config = model.config
    if small.input is None:
        raise TokenAdaptError(f"transformers' {model.name} has no input embedding")
    keys = _main_keys(config)
    large = _grown(model, config, keys)
    if large is None or not _grew(small, large, small.input):
        keys = _keys_of_size(config, max(small.shapes[small.input]))
        large = _grown(model, config, keys)
    if large is None or not _grew(small, large, small.input):
        raise TokenAdaptError(
            f"transformers' {model.name} has no vocabulary size in its config that its input embedding grows with"
        )
    if small.output is not None and not _grew(small, large, small.output):
        keys, large = _with_output_key(model, config, small, keys, large)
    return _tables(model, config, small, large, keys)


def copies_of_sizes(model: ModelClass, small: Loading, tables: VocabularyTables) -> tuple[Key, ...]:
    """Keys of the config that repeat the number of rows: in a config that the language model's is a part of.

    One of the same number by chance is told by its place, beside the language model's config, or by a table of
    another vocabulary that grows with it.

    Args:
        model: the class.
        small: the class as it is.
        tables: its tables.
    """
    rows = small.shapes[tables.input][tables.axes[tables.input]]
    found = []
    for key in _keys_of_size(model.config, rows):
        is_around = any(size[: len(key) - 1] == key[:-1] for size in tables.sizes)
        if key not in tables.sizes and is_around:
            grown = _grown(model, model.config, {key: rows})
            others = {n for n, shape in small.shapes.items() if grown is not None and grown.shapes.get(n) != shape}
            found += [key] if others <= tables.axes.keys() else []
    return tuple(found)


def stored_tables(
    model: ModelClass, tables: VocabularyTables, shapes: Mapping[str, Shape], stored: Loading
) -> dict[str, StoredTable]:
    """The tensors of a checkpoint that have a vocabulary axis, by stored name.

    Args:
        shapes: of the checkpoint's tensors.
        stored: what the class made of them.

    Raises:
        TokenAdaptError: a tensor that the class does not load has an axis of the vocabulary's size, and nothing
            says whether it is a table.
    """
    rows = set(tables.sizes.values())
    rows |= {have[tables.axes[name]] for name, (have, _) in stored.mismatched.items() if name in tables.axes}
    candidates = {name: _axis_of(shape, rows) for name, shape in shapes.items() if rows & set(shape)}
    places = _places(model, tables, shapes, candidates)
    found = {}
    for name in sorted(candidates):
        parameter = places.get(name)
        if parameter in tables.axes:
            assert parameter is not None
            is_output = parameter == tables.output
            found[name] = StoredTable(tables.axes[parameter], parameter, is_output, parameter in tables.per_layer)
        elif parameter is None and not name.endswith(BUFFERS):
            table = _of_no_class(name, shapes[name], tables, set(_numbers(model.config.to_dict())))
            found |= {name: table} if table is not None else {}
    return found


def with_first_row(table: Tensor, rows: int) -> Tensor:
    """A table per layer (`VocabularyTables.per_layer`) with its first row for the ids that are beyond it."""
    missing = max(0, rows - len(table))
    return torch.cat([table, table[:1].expand(missing, *table.shape[1:])]) if missing else table


# --- sizes in the config --------------------------------------------------------------------------


def _main_keys(config: Any) -> dict[Key, int]:
    """The sizes of the text config: of its vocabulary, and of tables per layer; and the same size elsewhere."""
    text = config.get_text_config()
    main = getattr(text, MAIN_KEY, None)
    found = {}
    for path, each in nested_configs(config):
        for common in (MAIN_KEY, PER_LAYER_KEY):
            name = (each.attribute_map or {}).get(common, common)
            value = getattr(each, name, None)
            if isinstance(value, int) and (each is text or (each is config and value == main)):
                key = (*path, name)
                found[key] = value
    return found


def _all_keys(config: Any) -> dict[Key, int]:
    """Every size of some vocabulary, anywhere in the config."""
    found = {}
    for path, each in nested_configs(config):
        # Only these names: some configs refuse to be asked for others.
        names = {name for name in vars(each) if _SIZE_KEY.search(name) and not _NOT_TOKENS.search(name)}
        for name in sorted(names | {MAIN_KEY}):
            value = getattr(each, name, None)
            if type(value) is int and value > 0:
                key = (*path, name)
                found[key] = value
    return found


def _keys_of_size(config: Any, rows: int) -> dict[Key, int]:
    return {key: value for key, value in _all_keys(config).items() if value == rows}


def _grown(model: ModelClass, config: Any, keys: Mapping[Key, int]) -> Loading | None:
    """The class built with one more token; None where it cannot be."""
    larger = copy.deepcopy(config)
    configs = dict(nested_configs(larger))
    for (*path, name), value in keys.items():
        setattr(configs[tuple(path)], name, value + 1)
    try:
        return model.load({}, larger)
    except CannotBuild:
        return None


def _grew(small: Loading, large: Loading, name: str) -> bool:
    return small.shapes[name] != large.shapes.get(name)


def _with_output_key(
    model: ModelClass, config: Any, small: Loading, keys: dict[Key, int], large: Loading
) -> tuple[dict[Key, int], Loading]:
    """Add the key that says how many rows the output matrix has, where it has one of its own.

    Raises:
        TokenAdaptError: input and output have vocabularies of different sizes.
    """
    assert small.output is not None
    for key, value in _all_keys(config).items():
        if key in keys or value not in small.shapes[small.output]:
            continue
        together = {**keys, key: value}
        grown = _grown(model, config, together)
        if grown is not None and _grew(small, grown, small.output):
            if value not in keys.values():
                raise TokenAdaptError(
                    f"transformers' {model.name} reads and writes different vocabularies, of "
                    f"{max(keys.values())} and {value} tokens: one tokenizer cannot stand for both"
                )
            return together, grown
    return keys, large


def _tables(
    model: ModelClass, config: Any, small: Loading, large: Loading, keys: Mapping[Key, int]
) -> VocabularyTables:
    """What grew, and along which axis.

    Raises:
        TokenAdaptError: a table has a size that one plan of rows cannot make.
    """
    axes, per_layer = {}, set()
    layer_sizes = {value for key, value in keys.items() if key[-1] == PER_LAYER_KEY}
    main_sizes = {value for key, value in keys.items() if key[-1] != PER_LAYER_KEY}
    for name, shape in small.shapes.items():
        new = large.shapes.get(name)
        if new is None or new == shape:
            continue
        grown = [axis for axis, size in enumerate(shape) if len(new) == len(shape) and new[axis] != size]
        if len(grown) != 1 or shape[grown[0]] not in main_sizes | layer_sizes or new[grown[0]] != shape[grown[0]] + 1:
            raise TokenAdaptError(
                f"transformers' {model.name}: {name} has the shape {shape}, which is not one row for each of "
                f"{max(main_sizes)} tokens: such a table cannot be adapted"
            )
        axes[name] = grown[0]
        if shape[grown[0]] not in main_sizes:
            per_layer.add(name)
    assert small.input is not None
    output = small.output if small.output in axes else None
    shapes = {name: small.shapes[name] for name in axes}
    return VocabularyTables(axes, shapes, dict(keys), frozenset(per_layer), small.input, output, large.is_tied)


# --- stored tensors -------------------------------------------------------------------------------


def _axis_of(shape: Shape, rows: set[int]) -> int:
    return next(axis for axis, size in enumerate(shape) if size in rows)


def _places(
    model: ModelClass, tables: VocabularyTables, shapes: Mapping[str, Shape], candidates: Mapping[str, int]
) -> dict[str, str]:
    """Stored name of each candidate to the parameter it is loaded into; those that are not loaded are left out."""
    wrong: dict[str, Shape] = {}
    for number, (name, axis) in enumerate(sorted(candidates.items())):
        wrong[name] = (*shapes[name][:axis], _WRONG_SIZE + number, *shapes[name][axis + 1 :])
    try:
        loaded = model.load({**shapes, **wrong})
    except CannotBuild:
        # A tensor that is put together with others from the disk cannot be of another size than they are.
        # Tables are not put together; what has not the shape of one is loaded somewhere else.
        likely = {name: axis for name, axis in candidates.items() if shapes[name] in tables.shapes.values()}
        if len(likely) == len(candidates):
            raise
        return dict.fromkeys(candidates, "") | _places(model, tables, shapes, likely)
    parameters = {have: parameter for parameter, (have, _) in loaded.mismatched.items()}
    return {name: parameters[shape] for name, shape in wrong.items() if shape in parameters}


def _numbers(config: Any) -> Iterator[int]:
    """Every size in a config that is not one of a vocabulary."""
    entries = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in entries:
        if isinstance(value, Mapping | list | tuple):
            yield from _numbers(value)
        elif type(value) is int and not (isinstance(key, str) and (_SIZE_KEY.search(key) or key.endswith("_id"))):
            yield value


def _of_no_class(name: str, shape: Shape, tables: VocabularyTables, others: set[int]) -> StoredTable | None:
    """A table of a layer that the class leaves out, as it does with layers that predict several tokens ahead.

    None where the axis has its size for another reason: one of `others`, the config's other numbers.

    Raises:
        TokenAdaptError: it is not clear that it is one.
    """
    matrices = {tables.shapes[p] for p in (tables.input, tables.output) if p is not None}
    if shape in matrices and (_TABLE.search(name) or _HEAD.search(name)):
        return StoredTable(tables.axes[tables.input], None, bool(_HEAD.search(name)))
    if set(shape) & set(tables.sizes.values()) <= others:
        return None
    raise TokenAdaptError(
        f"the tensor {name}, of the shape {shape}, has an axis of the vocabulary's size, but the model's class does "
        "not load it, so that nothing says whether it has a row for each token: take it out of the checkpoint"
    )
