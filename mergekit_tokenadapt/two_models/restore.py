"""Give a model the vocabulary back that it had before a transplant.

Every row of the old vocabulary comes from one of two models:

- If the transplant copied the row, the row comes from the adapted model, trained or not. Rows that training left alone
  return bit for bit. If several tokens got the same old row (special tokens by their roles, for instance), the token
  with the same bytes is used, or else the eos token, or else the bos token, or else the token with the lowest id.
- If the transplant dropped the row, because the target had no such token, the row comes from the base model. Training
  of the adapted model could not change it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.identity import is_described_by
from mergekit_tokenadapt.models.pad_positions import PadMove, move_between, pad_of
from mergekit_tokenadapt.models.written import check_written
from mergekit_tokenadapt.output import MANIFEST, PLAN, file_hashes, inputs_in
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.same_files import write_in_same_files
from mergekit_tokenadapt.output.side_files import PROCESSOR_FILES
from mergekit_tokenadapt.storage.input_files import check_own, local_path
from mergekit_tokenadapt.storage.staging import check_output, staged_folder
from mergekit_tokenadapt.tokenizer.files import TOKENIZER_FILES, copy_files, read_json
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan
from mergekit_tokenadapt.two_models.old_values import OldValues

LOG = logging.getLogger(__name__)

COPIED = ("generation_config.json", *TOKENIZER_FILES)
"""Files that the restored model gets from the base model."""


@dataclass(frozen=True)
class Restored:
    """Numbers of the rows that `restore` has written."""

    folder: Path
    """The folder of the restored model."""
    rows: int
    """Number of all rows."""
    from_model: int
    """Rows that come from the adapted model."""
    from_base: int
    """Rows that the transplant had dropped, and that come from the base model."""


def restore(
    model: str,
    out: str,
    *,
    manifest: Path | None = None,
    base: str | None = None,
    input_number: int | None = None,
    force: bool = False,
) -> Restored:
    """Write `out`: `model` with the tokenizer, the ids and the rows of the model that it was made from.

    Args:
        model: the folder of the transplanted model, trained or not.
        out: the folder to write. It appears only when it is complete.
        manifest: a folder with the model's `tokenadapt.json` and `tokenadapt.plan`, and with its tokenizer if `model`
            has none; `model` itself by default. (Trainers do not copy these files.)
        base: the model that `model` was made from; by default the one that the manifest names.
        input_number: for a merge, the number of the input model whose vocabulary to restore, from 0.
        force: replace `out` where it exists.

    Raises:
        TokenAdaptError: the manifest or the plan is missing, the base is not the one that the manifest describes, the
            model has another number of rows than the plan, or `out` exists.
    """
    inputs = [model, *(str(one) for one in (manifest, base) if one is not None)]
    check_output(out, force=force, inputs=inputs)
    # Trainers save weights, and often no tokenizer.
    has_tokenizer = any((local_path(model) / name).is_file() for name in TOKENIZER_FILES)
    adapted = open_model(model, tokenizer_in=None if has_tokenizer else manifest)
    described, plan = _read_manifest(manifest or adapted.folder, input_number)
    _check_own_manifest(adapted, manifest)
    original = _open_base(base, described)
    destination = check_output(out, force=force, inputs=[*inputs, original.folder])
    _check_base(original, described)
    check_own(original.folder, [original.folder / name for name in (*COPIED, *PROCESSOR_FILES)])
    check_own(adapted.folder, [adapted.folder / name for name in PROCESSOR_FILES])
    rows = row_sources(plan, original.num_rows, adapted.tokenizer.vocabulary.roles)
    _check_weights(adapted, original, described, rows)
    with staged_folder(out, force=force) as staged:
        staged.mkdir()
        move = _pad_move(adapted, original)
        _write_weights(adapted, original, plan, rows, move, staged)
        _write_configs(adapted, original, move, staged)
        check_written(staged, original.folder)
    num_kept = int((rows >= 0).sum())
    return Restored(destination, len(rows), num_kept, len(rows) - num_kept)


def row_sources(plan: TransferPlan, base_rows: int, roles: Mapping[str, int]) -> np.ndarray:
    """Return for each old row the new row that is its copy, or -1 if the transplant dropped it; int64 [base_rows].

    Args:
        plan: the plan of the transplant.
        base_rows: number of rows of the base model.
        roles: role -> id of its token in the adapted model's tokenizer.
    """
    rows = np.full(base_rows, -1, dtype=np.int64)
    eos, bos = roles.get("eos"), roles.get("bos")

    def preference(row: int) -> tuple[bool, bool, bool, int]:
        # If the base's pad token is its eos token, training moves the row of the new eos, and not that of the new pad.
        return bool(plan.mapping.reasons[row] == Reason.COPIED), row == eos, row == bos, -row

    for row in sorted(plan.copied_ids.tolist(), key=preference):  # later assignments overwrite earlier ones
        rows[plan.mapping.sources[row]] = row
    return rows


def _read_manifest(folder: Path, input_number: int | None) -> tuple[Mapping[str, Any], TransferPlan]:
    """Return the manifest's record of the input model, and the plan of its transfer.

    Raises:
        TokenAdaptError: a file is missing or damaged, `input_number` is wrong, or the copied rows were changed on
            purpose.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        raise TokenAdaptError(f"{folder} has no {MANIFEST}: name the folder that has it with --manifest")
    inputs: Any = manifest.get("inputs")
    adapt: Any = manifest.get("adapt")
    if not _are_inputs(inputs) or not isinstance(adapt, Mapping):
        raise TokenAdaptError(f"{folder / MANIFEST} is not a manifest of mergekit-tokenadapt")
    if input_number is None and len(inputs) > 1:
        names = ", ".join(f"{n}: {one['name']}" for n, one in enumerate(inputs))
        raise TokenAdaptError(f"{folder} was merged from several models; choose one with --input ({names})")
    if adapt.get("untie") or any((one.get("correction") or {}).get("strength") for one in inputs):
        raise TokenAdaptError(
            f"{folder} was made with calibration_text or untie, which change rows that are otherwise copies: "
            "their old values are in the base model only, and cannot be told from the effect of training"
        )
    number = input_number or 0
    if number >= len(inputs):
        raise TokenAdaptError(f"--input {number}: {folder} was made from {len(inputs)} model(s), numbered from 0")
    # A transplant writes the plan of the first input model as PLAN, and those of the others with a number.
    file = folder / (PLAN if number == 0 else f"{PLAN}.{number}")
    if not file.is_file():
        raise TokenAdaptError(f"{folder} has no {file.name}: it was made with save_plan: false, and cannot be restored")
    return inputs[number], load_plan(file)


def _check_own_manifest(adapted: ModelFolder, manifest: Path | None) -> None:
    """Check that a model with a manifest of its own is not restored with that of a model made from others.

    Raises:
        TokenAdaptError: the two manifests name different inputs.
    """
    own = inputs_in(adapted.folder)
    if manifest is not None and own and own != inputs_in(manifest):
        raise TokenAdaptError(
            f"{adapted.name} has a {MANIFEST} of its own, which names other inputs than that in {manifest}: leave out "
            "--manifest"
        )


def _are_inputs(inputs: Any) -> bool:
    """Return whether a manifest's ``inputs`` have the form that `OutputFolder.manifest` writes, as far as it is used
    here.
    """
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and all(isinstance(one, Mapping) for one in inputs)
        and all(isinstance(one.get("name"), str) and isinstance(one.get("files"), Mapping) for one in inputs)
        and all(isinstance(one.get("correction"), (Mapping, type(None))) for one in inputs)
    )


def _open_base(base: str | None, described: Mapping[str, Any]) -> ModelFolder:
    """Open the base model.

    Raises:
        TokenAdaptError: it is not where the manifest says, and no other place was given.
    """
    try:
        return open_model(base or described["name"])
    except (TokenAdaptError, OSError) as error:  # an OSError comes, for example, from a name that is too long
        hint = "" if base else " (the manifest names it; if it has moved, name its place with --base)"
        raise TokenAdaptError(f"{error}{hint}") from error


def _check_base(original: ModelFolder, described: Mapping[str, Any]) -> None:
    """Check the base's config and tokenizer against the hashes in the manifest.

    Raises:
        TokenAdaptError: a file differs.
    """
    for name in ("config.json", "tokenizer.json"):
        expected, file = described["files"].get(name), original.folder / name
        if expected and not (file.is_file() and file_hashes([file])[name] == expected):
            raise TokenAdaptError(
                f"{original.name} is not the model that the manifest describes: its {name} differs; "
                "name the right one with --base"
            )


def _check_weights(adapted: ModelFolder, original: ModelFolder, described: Mapping[str, Any], rows: np.ndarray) -> None:
    """Check that the base has the weights of the model that the manifest describes.

    Manifests of earlier versions have no hashes of weights. Then the copied rows decide: rows that training did not
    change are bit for bit the base model's.

    Raises:
        TokenAdaptError: the config and the tokenizer agree, but the weights differ.
    """
    answer = is_described_by(described, original.folder)
    if answer is None:
        answer = _shares_rows(adapted, original, rows)
        LOG.warning(
            "the manifest was written by an earlier version and has no hashes of weights: judged by its rows, %s",
            f"{original.name} {'is' if answer else 'is not'} the model that {adapted.name} was made from",
        )
    if not answer:
        raise TokenAdaptError(
            f"{original.name} is not the model that {adapted.name} was made from: it has the same config and "
            "tokenizer, but other weights; name the right one with --base"
        )


def _shares_rows(adapted: ModelFolder, original: ModelFolder, rows: np.ndarray) -> bool:
    """Return whether at least one copied row that is not all zero equals the base model's row."""
    then, now = original.rows(original.input_matrix), adapted.rows(adapted.input_matrix)
    kept = np.flatnonzero(rows >= 0)
    if then.shape[1:] != now.shape[1:] or not len(kept) or kept[-1] >= len(then) or rows.max() >= len(now):
        return False
    old = then[torch.from_numpy(kept)].to(now.dtype)
    return bool(((old == now[torch.from_numpy(rows[kept])]).all(dim=1) & (old != 0).any(dim=1)).any())


def _pad_move(adapted: ModelFolder, original: ModelFolder) -> PadMove | None:
    """Return how position tables that follow the pad token's id move back; None if there are none."""
    pad = pad_of(original.transformers_config)
    return move_between(
        adapted.transformers_config, adapted.tensors.names, pad, model=adapted.name, target=original.name
    )


def _write_weights(
    adapted: ModelFolder, original: ModelFolder, plan: TransferPlan, rows: np.ndarray, move: PadMove | None, out: Path
) -> None:
    """Write all tensors in files as the adapted model has them.

    Vocabulary tensors get the old rows, and position tables that follow the pad token's id move back.
    """
    if adapted.num_rows != plan.num_rows:
        raise TokenAdaptError(
            f"{adapted.name} has {adapted.num_rows} rows, but was made with {plan.num_rows}: its vocabulary was changed"
        )

    def new(name: str) -> Tensor:
        if name in adapted.vocabulary_tensors:
            return _old_rows(name, adapted, original, rows)
        tensor = adapted.tensors.read(name)
        return move.shift(tensor) if move is not None and move.moves(name) else tensor

    write_in_same_files(adapted.tensors, new, out)


def _old_rows(name: str, adapted: ModelFolder, original: ModelFolder, rows: np.ndarray) -> Tensor:
    """Return one vocabulary tensor with the old rows, in the adapted model's dtype."""
    now = adapted.rows(name)
    known_as = _same_tensor(name, adapted, original)
    then = original.rows(known_as)
    if original.checkpoint.stored[known_as].is_per_layer:
        rows = rows[: len(then)]  # such a tensor may have fewer rows than the vocabulary matrices
    if len(then) != len(rows) or then.shape[1:] != now.shape[1:]:
        raise TokenAdaptError(
            f"{original.name}: its {name} has the shape {tuple(then.shape)}, which does not go with {tuple(now.shape)}"
        )
    old = then.to(now.dtype, copy=True)
    kept = torch.from_numpy(np.flatnonzero(rows >= 0))
    old[kept] = now[torch.from_numpy(rows)[kept]]
    return old.movedim(0, adapted.vocabulary_tensors[name])


def _same_tensor(name: str, adapted: ModelFolder, original: ModelFolder) -> str:
    """Return the tensor's name in the base model. A tied matrix may be stored there under the other matrix's name."""
    if name in original.vocabulary_tensors:
        return name
    if name in (adapted.input_matrix, adapted.output_matrix):
        return (original.output_matrix if name == adapted.output_matrix else None) or original.input_matrix
    raise TokenAdaptError(f"{original.name} has no vocabulary tensor {name}")


def _write_configs(adapted: ModelFolder, original: ModelFolder, move: PadMove | None, out: Path) -> None:
    """Write the adapted model's configs with the base's sizes and token ids, and the base's tokenizer files.

    Trainers may not save processor configs. Those that the adapted model's folder lacks are the base's.
    """
    config = deepcopy(dict(adapted.config))
    if move is not None:
        move.change(config)
    sizes = {*adapted.checkpoint.size_keys, *original.checkpoint.size_keys}
    old = OldValues(adapted.tokenizer.vocabulary, original.tokenizer.vocabulary, sizes)
    write_json(out / "config.json", old.put_into(config, original.config))
    for name in PROCESSOR_FILES:
        then = read_json(original.folder / name)
        if now := read_json(adapted.folder / name) or then:
            write_json(out / name, old.put_into(now, then))
    copy_files(original.folder, out, COPIED)
