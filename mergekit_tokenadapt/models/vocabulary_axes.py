"""Find the tensors of a checkpoint that have a vocabulary axis, without a list of tensor names.

A model's class is built twice on the meta device, the second time with one more token in its config. Every axis that
grows is a vocabulary axis. A position table that happens to have as many rows does not grow.

transformers also tells which stored tensor belongs to which parameter. Each tensor that may be a table gets a wrong
size of its own. transformers reports each mismatch with the parameter and the wrong size, and the size identifies the
stored tensor.
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
"""Common config keys for the rows of the vocabulary matrices, and of tables per layer (Gemma 3n)."""
_SIZE_KEY = re.compile(r"vocab")
_NOT_TOKENS = re.compile(r"type_vocab|modality|task")
"""Matches config keys of other tables, such as token types, which are not indexed by token ids."""
_TABLE = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|tok_embeddings|word_embeddings|embeddings?|embed|emb)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|head)\.weight$")
"""Usual names of input (`_TABLE`) and output (`_HEAD`) matrices, for layers that the class itself does not load."""
BUFFERS = (".inv_freq", ".position_ids", ".masked_bias", ".attn.bias")
"""Ends of the names of computed tensors, which older checkpoints still hold. Models compute them anew."""
_WRONG_SIZE = 10_000_019
"""First of the wrong sizes. It is larger than any real axis, so no real size equals one of them."""

Key = tuple[str, ...]
"""Path of a key in nested configs: ``("text_config", "vocab_size")``."""


@dataclass(frozen=True)
class VocabularyTables:
    """The parameters of a model class that have a vocabulary axis."""

    axes: Mapping[str, int]
    """Parameter -> its vocabulary axis."""
    shapes: Mapping[str, Shape]
    """Parameter -> its shape."""
    sizes: Mapping[Key, int]
    """Path of a config key that states the number of rows -> that number."""
    per_layer: frozenset[str]
    """Parameters that may have fewer rows than the vocabulary. The class uses row 0 for ids beyond them."""
    input: str
    """The parameter of the input matrix (embeddings)."""
    output: str | None
    """The parameter of the output matrix (`lm_head`), tied or not; None if there is none."""
    is_tied: bool
    """Whether input and output matrix are one tensor."""
    other_names: Mapping[str, str]
    """Further name of the input or output matrix -> its name in `input` or `output`."""


@dataclass(frozen=True)
class StoredTable:
    """A tensor of a checkpoint that has a vocabulary axis."""

    axis: int
    parameter: str | None
    """The parameter that it is loaded into, by its name in `VocabularyTables.input` or `output` if it is one of these.
    None for a layer that only other inference engines load.
    """
    is_output: bool
    """Whether it is an output matrix."""
    is_per_layer: bool = False
    """Whether it may have fewer rows than the vocabulary; see `VocabularyTables.per_layer`."""


def find_tables(model: ModelClass, small: Loading) -> VocabularyTables:
    """Find the parameters and buffers of a class that grow with the vocabulary.

    Args:
        model: the class, with a pad id that is below its number of rows.
        small: the class loaded with its own config. The checkpoint does not matter.

    Raises:
        TokenAdaptError: the class has no input embedding that grows with a size in its config, or it has a table that
            cannot have one row for each token.
    """
    config = model.config
    if small.input is None:
        raise TokenAdaptError(f"transformers' {model.name} has no input embedding")
    # Usually the common keys name the size. If the input embedding does not grow with them, all keys with its size may.
    keys = _main_keys(config)
    large = _grown(model, config, keys)
    if large is None or not _grew(small, large, small.input):
        keys = _keys_of_size(config, max(small.shapes[small.input]))
        large = _grown(model, config, keys)  # some configs have a key of another name
    if large is None or not _grew(small, large, small.input):
        raise TokenAdaptError(
            f"transformers' {model.name} has no vocabulary size in its config that sets the rows of its input embedding"
        )
    if small.output is not None and not _grew(small, large, small.output):
        keys, large = _with_output_key(model, config, small, keys, large)
    return _tables(model, config, small, large, keys)


def copies_of_sizes(model: ModelClass, small: Loading, tables: VocabularyTables) -> tuple[Key, ...]:
    """Find further config keys that repeat the number of rows, in a config around that of the language model.

    A key that has the same value only by chance is left out. It stands in a config that does not contain the language
    model's, or a table of another vocabulary grows with it.

    Args:
        model: the class.
        small: the class loaded with its own config.
        tables: its vocabulary tables.
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
    """Find the tensors of a checkpoint that have a vocabulary axis.

    Args:
        model: the class.
        tables: its vocabulary tables.
        shapes: stored name -> shape of each tensor of the checkpoint.
        stored: the class loaded with these tensors.

    Returns:
        Stored name -> table.

    Raises:
        TokenAdaptError: a tensor that the class does not load has an axis of the vocabulary's size, and it is not clear
            whether it is a vocabulary table.
    """
    # A checkpoint may have more rows than its config states. transformers reports such a table as mismatched.
    rows = set(tables.sizes.values())
    rows |= {have[tables.axes[name]] for name, (have, _) in stored.mismatched.items() if name in tables.axes}
    candidates = {name: _axis_of(shape, rows) for name, shape in shapes.items() if rows & set(shape)}
    places = _parameters_by_name(model, tables, shapes, candidates)
    found = {}
    for name in sorted(candidates):
        parameter = places.get(name)
        if parameter in tables.axes:
            assert parameter is not None
            parameter = tables.other_names.get(parameter, parameter)
            is_output = parameter == tables.output
            found[name] = StoredTable(tables.axes[parameter], parameter, is_output, parameter in tables.per_layer)
        elif parameter is None and not name.endswith(BUFFERS):
            table = _unloaded_table(name, shapes[name], tables, set(_numbers(model.config.to_dict())))
            found |= {name: table} if table is not None else {}
    return found


def with_first_row(table: Tensor, rows: int) -> Tensor:
    """Extend a table per layer to `rows` rows with copies of its first row, which the class uses for ids beyond it.

    Args:
        table: [rows of the table, ...].
        rows: number of rows that are needed.
    """
    missing = max(0, rows - len(table))
    return torch.cat([table, table[:1].expand(missing, *table.shape[1:])]) if missing else table


# --- sizes in the config --------------------------------------------------------------------------


def _main_keys(config: Any) -> dict[Key, int]:
    """Return the size keys of the language model's config, and those of the outermost config with the same value."""
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
    """Return every key of some vocabulary's size in a config and its nested configs, with its value."""
    found = {}
    for path, each in nested_configs(config):
        # Only existing names are read, because some configs raise an error for others.
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
    """Load the class with 1 added to some keys of the config; return None if the class cannot be built so."""
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
    """Add the config key of the output matrix's rows, if this matrix has a key of its own.

    Returns:
        All size keys with their values, and the class loaded with 1 added to each.

    Raises:
        TokenAdaptError: input and output matrix have different numbers of rows.
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
                    f"transformers' {model.name} has input and output vocabularies of different sizes, "
                    f"{max(keys.values())} and {value} tokens: one tokenizer cannot serve both"
                )
            return together, grown
    return keys, large


def _tables(
    model: ModelClass, config: Any, small: Loading, large: Loading, keys: Mapping[Key, int]
) -> VocabularyTables:
    """Compare the shapes of the two loaded classes, and collect the parameters that grew.

    Raises:
        TokenAdaptError: a parameter grew in another way than by one row for one token.
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
    return VocabularyTables(
        axes, shapes, dict(keys), frozenset(per_layer), small.input, output, large.is_tied, large.other_names
    )


# --- stored tensors -------------------------------------------------------------------------------


def _axis_of(shape: Shape, rows: set[int]) -> int:
    return next(axis for axis, size in enumerate(shape) if size in rows)


def _parameters_by_name(
    model: ModelClass, tables: VocabularyTables, shapes: Mapping[str, Shape], candidates: Mapping[str, int]
) -> dict[str, str]:
    """Return stored name -> parameter for the candidates that the class loads, by giving each a wrong size."""
    wrong: dict[str, Shape] = {}
    for number, (name, axis) in enumerate(sorted(candidates.items())):
        wrong[name] = (*shapes[name][:axis], _WRONG_SIZE + number, *shapes[name][axis + 1 :])
    try:
        loaded = model.load({**shapes, **wrong})
    except CannotBuild:
        # transformers may fuse several stored tensors into one parameter, which fails if only one has a wrong size.
        # Tables are never fused. So only tensors with the shape of a table get a wrong size; the others are no tables.
        likely = {name: axis for name, axis in candidates.items() if shapes[name] in tables.shapes.values()}
        if len(likely) == len(candidates):
            raise
        return dict.fromkeys(candidates, "") | _parameters_by_name(model, tables, shapes, likely)
    parameters = {have: parameter for parameter, (have, _) in loaded.mismatched.items()}
    return {name: parameters[shape] for name, shape in wrong.items() if shape in parameters}


def _numbers(config: Any) -> Iterator[int]:
    """Yield every whole number in a config that is neither the size of a vocabulary nor a token id."""
    entries = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in entries:
        if isinstance(value, Mapping | list | tuple):
            yield from _numbers(value)
        elif type(value) is int and not (isinstance(key, str) and (_SIZE_KEY.search(key) or key.endswith("_id"))):
            yield value


def _unloaded_table(name: str, shape: Shape, tables: VocabularyTables, others: set[int]) -> StoredTable | None:
    """Describe a tensor that the class does not load, such as a matrix of a multi-token prediction layer.

    Args:
        name: stored name.
        shape: its shape.
        tables: the tables of the class.
        others: the other numbers in the config, which may explain the size of the axis.

    Returns:
        The table; None if one of `others` explains the size.

    Raises:
        TokenAdaptError: it is not clear whether the tensor is a vocabulary table.
    """
    matrices = {tables.shapes[p] for p in (tables.input, tables.output) if p is not None}
    if shape in matrices and (_TABLE.search(name) or _HEAD.search(name)):
        return StoredTable(tables.axes[tables.input], None, bool(_HEAD.search(name)))
    if set(shape) & set(tables.sizes.values()) <= others:
        return None
    raise TokenAdaptError(
        f"the tensor {name}, of the shape {shape}, has an axis of the vocabulary's size, but the model's class does "
        "not load it, so it is not known whether it has a row for each token: remove it from the checkpoint"
    )
