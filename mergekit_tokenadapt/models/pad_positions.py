"""Models that count positions from the pad token's id.

RoBERTa and related models use row ``pad + k`` of the position table for the k-th token. A new pad id would shift every
position. This module has no list of such models. It builds a model's class twice on the meta device, the second time
with another pad id and more positions, and compares the two.

There are four kinds of such models:

- A stored table follows the pad id (RoBERTa). Its rows are moved with the id, so that every token keeps its row.
- A stored table uses a pad id that is fixed in the class's code (MPNet). The target must have the same pad id.
- Positions are computed from the token ids, without a stored table (M2M100). The target must have the same pad id.
- A computed table has a row of zeros at the pad id, and positions do not depend on the id (XGLM). The new config gets
  no pad id.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.classes import class_of, nested_configs

LOG = logging.getLogger(__name__)

PAD = "pad_token_id"
POSITIONS = "max_position_embeddings"

Path = tuple[str, ...]
"""Path of a nested config: ``("text_config",)``; empty for the model's config itself."""

MORE_POSITIONS = 1009
"""Positions added to find the tables with one row per position. Only a pad id that falls by exactly this number would
cancel the added rows, and 1009 is no usual pad id."""


@dataclass(frozen=True)
class PadPositions:
    """How a model's positions depend on the pad token's id."""

    pad: int
    """The pad id in the config."""
    sections: tuple[Path, ...]
    """Paths of the configs that state the pad id."""
    tables: Mapping[str, int]
    """Parameter of a stored position table whose rows follow the pad id -> its number of rows."""
    fixed: int | None = None
    """The pad id in the class's code, if a table follows that instead of the config."""
    is_computed: bool = False
    """Whether positions are computed from the token ids, without a stored table."""
    blanks_a_row: bool = False
    """Whether the pad id only marks a row of zeros in a computed table."""


@dataclass(frozen=True)
class PadMove:
    """The change of the pad id, and of the position tables that follow it."""

    old: int
    """The pad id of the base model."""
    new: int | None
    """The pad id of the output; None if its config shall name none."""
    sections: tuple[Path, ...] = ((),)
    """Paths of the configs that state the pad id."""
    tables: tuple[str, ...] = ()
    """Parameters whose rows move."""
    num_positions: tuple[int, ...] = ()
    """Numbers of rows of these tables, which the config states."""

    @property
    def distance(self) -> int:
        """Number of rows by which the tables move; negative for a smaller pad id."""
        return self.new - self.old if self.new is not None and self.tables else 0

    def moves(self, name: str) -> bool:
        """Return whether a stored tensor is one of the tables."""
        return any(_same(name, table) for table in self.tables)

    def shift(self, table_PD: Tensor) -> Tensor:
        """Return the position table in which row ``new + k`` is the old row ``old + k``.

        The number of rows changes by `distance`. Added rows at the front are zero; no token uses them.

        Args:
            table_PD: [positions, width], any dtype; not changed.
        """
        if self.distance <= 0:
            return table_PD[-self.distance :].clone()
        front = torch.zeros((self.distance, *table_PD.shape[1:]), dtype=table_PD.dtype, device=table_PD.device)
        return torch.cat([front, table_PD])

    def change(self, config: dict[str, Any]) -> None:
        """Set the new pad id and the new number of positions in the content of a config.json, in place."""
        for path in self.sections:
            section = config
            for key in path:
                section = section.setdefault(key, {})
            section[PAD] = self.new
            if section.get(POSITIONS) in self.num_positions:
                section[POSITIONS] += self.distance


def find_pad_positions(config: Any, stored: Collection[str]) -> PadPositions | None:
    """Find out how a model's positions depend on the pad id.

    Args:
        config: the model's transformers config; not changed.
        stored: names of the tensors in the checkpoint.

    Returns:
        The dependence; None if there is none, or if the model's class is not known or cannot be built.
    """
    pad = pad_of(config)
    if pad is None:
        return None
    try:
        model_class = class_of(config)
        candidates = dict(_candidates(model_class.build())) if model_class is not None else {}
        if model_class is None or not candidates:
            return None
        other = model_class.build(_changed(config, pad, 0 if pad else 1))
    except Exception as error:  # importing a class runs its code, which may raise anything
        LOG.info("whether positions follow the pad token's id is not known: %s", first_line(error))
        return None
    sections = tuple(path for path, each in nested_configs(config) if getattr(each, PAD, None) == pad)
    return _compare(pad, sections, candidates, dict(other.named_modules()), stored)


def move_between(config: Any, stored: Collection[str], new: int | None, *, model: str, target: str) -> PadMove | None:
    """Return the change that takes a model to another pad id; None if nothing has to change.

    Args:
        config: the model's transformers config.
        stored: names of the tensors in its checkpoint.
        new: the other pad id; None for none.
        model: name of the model, for messages.
        target: name of what has the other pad id, for messages.

    Raises:
        TokenAdaptError: the model cannot use the other pad id.
    """
    old = pad_of(config)
    found = None if old is None or old == new else find_pad_positions(config, stored)
    return None if found is None else plan_move(found, new, model=model, target=target)


def pad_of(config: Any) -> int | None:
    """Return the pad id of a config, or of its language model's config; None if neither states one."""
    values = (getattr(each, PAD, None) for each in (config, config.get_text_config()))
    return next((value for value in values if type(value) is int and value >= 0), None)


def plan_move(found: PadPositions, new: int | None, *, model: str, target: str) -> PadMove | None:
    """Return the change that a new pad id requires; None if nothing must change.

    Args:
        found: how the model's positions depend on the pad id.
        new: the pad id of the target; None if the target has no pad token.
        model: name of the model, for messages.
        target: name of the target tokenizer, for messages.

    Raises:
        TokenAdaptError: the model cannot use the target's pad id.
    """
    if found.blanks_a_row and not found.is_computed:
        return PadMove(found.pad, None, found.sections)
    needed = found.pad if found.is_computed else found.fixed
    if needed is not None and new != needed:
        has = "has none" if new is None else f"has the id {new}"
        raise TokenAdaptError(
            f"{model} counts positions from a pad token with the id {needed}, which cannot be changed, and the pad "
            f"token of {target} {has}: use a tokenizer whose pad token has the id {needed}"
        )
    if new is None:
        raise TokenAdaptError(
            f"{model} counts positions from its pad token's id, and {target} has no pad token: name one in its "
            'tokenizer_config.json ("pad_token"), or match one with token_map (OLD: NEW)'
        )
    if not found.tables or new == found.pad:
        return None
    return PadMove(found.pad, new, found.sections, tuple(found.tables), tuple(sorted(set(found.tables.values()))))


# --- the modules of the class --------------------------------------------------------------------


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules without submodules that have a ``padding_idx``, except the input embedding."""
    embedding = getattr(model.get_input_embeddings(), "weight", None)  # type: ignore[operator]
    for name, module in model.named_modules():
        if isinstance(getattr(module, "padding_idx", None), int) and not list(module.children()):
            weight = getattr(module, "weight", None)
            # An `nn.Embedding` may have a `padding_idx` only to zero a row. A position table that counts from the pad
            # id lies in a module that keeps the id, too.
            holder = model.get_submodule(name.rpartition(".")[0])
            counts = weight is None or isinstance(getattr(holder, "padding_idx", None), int)
            if weight is not embedding and counts:
                yield name, module


def _compare(
    pad: int,
    sections: tuple[Path, ...],
    before: Mapping[str, nn.Module],
    after: Mapping[str, nn.Module],
    stored: Collection[str],
) -> PadPositions | None:
    """Compare the candidate modules of the two built models.

    Args:
        pad: the pad id in the config.
        sections: paths of the configs that state it.
        before: candidates of the model built from its own config.
        after: all modules of the model built with another pad id and more positions.
        stored: names of the tensors in the checkpoint.
    """
    tables: dict[str, int] = {}
    fixed, is_computed, blanks = None, False, False
    for name, module in before.items():
        follows = module.padding_idx != after[name].padding_idx
        rows, more = _rows(module), _rows(after[name])
        if rows is not None and rows == more:
            continue  # no position table, because it did not grow with the number of positions
        if rows is not None and not follows:
            fixed = int(module.padding_idx)  # type: ignore[arg-type]
        elif rows is not None and follows and _is_stored(f"{name}.weight", stored):
            # A quantised embedding stores several tensors (values and scales) with one row per position.
            parts = {f"{name}.{part}": len(t) for part, t in module.state_dict().items() if t.dim()}
            tables |= {part: size for part, size in parts.items() if size == rows and _is_stored(part, stored)}
        elif follows and _reads_ids(module):
            is_computed = True
        elif follows:
            blanks = True
    found = PadPositions(pad, sections, tables, fixed, is_computed, blanks)
    return found if tables or is_computed or blanks or fixed is not None else None


def _rows(module: nn.Module) -> int | None:
    weight = getattr(module, "weight", None)
    return None if weight is None else len(weight)


def _is_stored(parameter: str, stored: Collection[str]) -> bool:
    return any(_same(name, parameter) for name in stored)


def _same(name: str, parameter: str) -> bool:
    """Return whether a stored name means a parameter. Checkpoints may lack or add the name of a wrapping module."""
    return name == parameter or name.endswith(f".{parameter}") or parameter.endswith(f".{name}")


def _reads_ids(module: nn.Module) -> bool:
    """Return whether a module takes token ids, and not positions that another module has counted."""
    return bool({"input_ids", "input"} & inspect.signature(module.forward).parameters.keys())


def _changed(config: Any, pad: int, other: int) -> Any:
    """Return a copy of the config with another pad id and `MORE_POSITIONS` more positions."""
    changed = copy.deepcopy(config)
    for _, section in nested_configs(changed):
        if getattr(section, PAD, None) == pad:
            setattr(section, PAD, other)
        if type(getattr(section, POSITIONS, None)) is int:
            setattr(section, POSITIONS, getattr(section, POSITIONS) + MORE_POSITIONS)
    return changed
