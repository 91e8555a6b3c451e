"""Models that count positions from the pad token's id.

RoBERTa and its kin look up row ``pad + k`` of the position table for the k-th token. Where the pad token gets
another id, every position would move with it. Which models do so is not listed here but asked of their classes,
built without memory (``meta_models``): once as they are, and once with another pad id and more positions.

Four kinds come of it:

- a stored table that follows the pad id: its rows move along, so that every token finds the row it had;
- a table whose pad id is fixed in the class's code (MPNet): only a target with that very pad id will do;
- positions worked out from the ids that are read, without a stored table (M2M100): likewise;
- positions worked out without them, where the pad id only blanks a row (XGLM): the config names no pad.
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
from mergekit_tokenadapt.models.meta_models import build

LOG = logging.getLogger(__name__)

PAD = "pad_token_id"
POSITIONS = "max_position_embeddings"

Path = tuple[str, ...]

MORE_POSITIONS = 1009
"""So many are added to find out which tables have a row for each; no pad id moves by it, and makes up for it."""


@dataclass(frozen=True)
class PadPositions:
    """How a model's positions hang on its pad token's id."""

    pad: int
    sections: tuple[Path, ...]
    """The configs that state it: where they are in the model's config."""
    tables: Mapping[str, int]
    """Stored position tables whose rows follow the pad id: parameter name to number of rows."""
    fixed: int | None = None
    """The pad id that the class's code has, whatever the config says."""
    is_computed: bool = False
    """Whether positions are worked out from the ids that are read, without a table that is stored."""
    blanks_a_row: bool = False
    """Whether the pad id blanks a row of a computed table, and does nothing else."""


@dataclass(frozen=True)
class PadMove:
    """A pad token's id becomes another one, and the position tables with it."""

    old: int
    new: int | None
    """None: the config names no pad."""
    sections: tuple[Path, ...] = ((),)
    """The configs that state it: where they are in the model's config."""
    tables: tuple[str, ...] = ()
    """Parameters whose rows move."""
    num_positions: tuple[int, ...] = ()
    """Rows of these tables, as the config states them."""

    @property
    def distance(self) -> int:
        """By how many rows the tables move."""
        return self.new - self.old if self.new is not None and self.tables else 0

    def moves(self, name: str) -> bool:
        """Whether a tensor of a checkpoint is one of the tables."""
        return any(_same(name, table) for table in self.tables)

    def shift(self, table_PD: Tensor) -> Tensor:
        """A position table in which row ``new + k`` is the old row ``old + k``.

        Rows before those that are used are zero. The table gets as many rows more, or less, as the id moves.
        """
        if self.distance <= 0:
            return table_PD[-self.distance :].clone()
        front = torch.zeros((self.distance, *table_PD.shape[1:]), dtype=table_PD.dtype, device=table_PD.device)
        return torch.cat([front, table_PD])

    def change(self, config: dict[str, Any]) -> None:
        """Put the new pad id and the new number of positions into the content of a config.json, in place."""
        for path in self.sections:
            section = config
            for key in path:
                section = section.setdefault(key, {})
            section[PAD] = self.new
            if section.get(POSITIONS) in self.num_positions:
                section[POSITIONS] += self.distance


def find_pad_positions(config: Any, stored: Collection[str]) -> PadPositions | None:
    """Ask a model's class how its positions hang on the pad id; None where they do not, or nothing can be asked.

    Args:
        config: of transformers; not changed.
        stored: names of the checkpoint's tensors.
    """
    pad = pad_of(config)
    if pad is None:
        return None
    try:
        model = build(config)
        candidates = dict(_candidates(model, pad)) if model is not None else {}
        if not candidates:
            return None
        other = build(_changed(config, pad, 0 if pad else 1))
    except Exception as error:  # the class's own code runs here, and may raise anything
        LOG.info("whether positions follow the pad token's id is not known: %s", first_line(error))
        return None
    assert other is not None
    sections = tuple(path for path, each in _config_sections(config) if getattr(each, PAD, None) == pad)
    return _judge(pad, sections, candidates, dict(other.named_modules()), stored)


def pad_of(config: Any) -> int | None:
    """The pad id of a config, or of the language model's in it."""
    values = (getattr(each, PAD, None) for each in (config, config.get_text_config()))
    return next((value for value in values if type(value) is int and value >= 0), None)


def plan_move(found: PadPositions, new: int | None, *, model: str, target: str) -> PadMove | None:
    """What has to be done for a pad token of another id; None where nothing has.

    Args:
        found: how the model counts.
        new: the pad token's id in the target; None where it has none.
        model: its name, for messages.
        target: the tokenizer's name.

    Raises:
        TokenAdaptError: the model cannot count from there.
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
            'tokenizer_config.json ("pad_token"), or let a token stand for it (token_map, OLD: NEW)'
        )
    if not found.tables or new == found.pad:
        return None
    return PadMove(found.pad, new, found.sections, tuple(found.tables), tuple(sorted(set(found.tables.values()))))


# --- asking the class ----------------------------------------------------------------------------


def _candidates(model: nn.Module, pad: int) -> Iterator[tuple[str, nn.Module]]:
    """Modules without parts that know of a pad id, the input embedding aside."""
    embedding = getattr(model.get_input_embeddings(), "weight", None)  # type: ignore[operator]
    for name, module in model.named_modules():
        if isinstance(getattr(module, "padding_idx", None), int) and not list(module.children()):
            weight = getattr(module, "weight", None)
            holder = model.get_submodule(name.rpartition(".")[0])
            counts = weight is None or isinstance(getattr(holder, "padding_idx", None), int)
            if weight is not embedding and counts:
                yield name, module


def _judge(
    pad: int,
    sections: tuple[Path, ...],
    before: Mapping[str, nn.Module],
    after: Mapping[str, nn.Module],
    stored: Collection[str],
) -> PadPositions | None:
    tables: dict[str, int] = {}
    fixed, is_computed, blanks = None, False, False
    for name, module in before.items():
        follows = module.padding_idx != after[name].padding_idx
        rows, more = _rows(module), _rows(after[name])
        if rows is not None and rows == more:
            continue  # no position table: it has no rows for more positions
        if rows is not None and not follows:
            fixed = int(module.padding_idx)  # type: ignore[arg-type]
        elif rows is not None and follows and _is_stored(f"{name}.weight", stored):
            # A quantised embedding keeps its weights in two forms.
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
    """Whether a stored tensor is a parameter: checkpoints leave out or add the name of a wrapping module."""
    return name == parameter or name.endswith(f".{parameter}") or parameter.endswith(f".{name}")


def _reads_ids(module: nn.Module) -> bool:
    """Whether a module works with the ids themselves, not with positions that others counted."""
    return bool({"input_ids", "input"} & inspect.signature(module.forward).parameters.keys())


def _changed(config: Any, pad: int, other: int) -> Any:
    """The config with another pad id, and more positions."""
    changed = copy.deepcopy(config)
    for _, section in _config_sections(changed):
        if getattr(section, PAD, None) == pad:
            setattr(section, PAD, other)
        if type(getattr(section, POSITIONS, None)) is int:
            setattr(section, POSITIONS, getattr(section, POSITIONS) + MORE_POSITIONS)
    return changed


def _config_sections(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    from transformers import PretrainedConfig

    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from _config_sections(value, (*path, name))
