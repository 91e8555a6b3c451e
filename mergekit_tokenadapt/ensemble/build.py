"""Write the folder of a lockstep ensemble, in which every member has the vocabulary of one of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.ensemble.options import EnsembleOptions
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder, context_length, open_model
from mergekit_tokenadapt.models.lockstep import MODEL_TYPE  # this import also registers the type with transformers
from mergekit_tokenadapt.output import write_json
from mergekit_tokenadapt.plugin.merge_options import MergeOptions
from mergekit_tokenadapt.storage.input_files import check_own
from mergekit_tokenadapt.storage.staging import check_output, staged_folder
from mergekit_tokenadapt.two_models.onto import put_onto


def normalised_weights(weights: Sequence[float], num_members: int) -> list[float]:
    """Return weights that sum to 1. Without weights, all members get the same one.

    Raises:
        TokenAdaptError: the number of weights is not the number of members, or a weight is not positive.

    >>> normalised_weights([1, 3], 2)
    [0.25, 0.75]
    """
    weights = weights or [1.0] * num_members
    if len(weights) != num_members:
        raise TokenAdaptError(f"{len(weights)} weights for {num_members} models: give one for each, in their order")
    if not all(0 < weight < float("inf") for weight in weights):
        raise TokenAdaptError(f"weights must be positive, not {', '.join(map(str, weights))}")
    return [weight / sum(weights) for weight in weights]


def make_lockstep(
    models: Sequence[str],
    out: str,
    adapt: Mapping[str, Any],
    options: EnsembleOptions | None = None,
    *,
    merge_options: MergeOptions | None = None,
    force: bool = False,
) -> Path:
    """Write `out`: a model folder with one folder for each member.

    Args:
        models: two or more folders or hub ids. Hidden sizes and architectures may differ.
        out: the folder to write. It appears only when it is complete.
        adapt: the ``adapt`` block of a recipe, for the members that get another vocabulary.
        options: the weights, the mean, and the model whose vocabulary all members get. That model's files are copied
            unchanged. None: the defaults.
        merge_options: options of mergekit.
        force: replace `out` where it exists.

    Raises:
        TokenAdaptError: there are fewer than two models, a weight is wrong, there is no model at position `target`, or
            see `put_onto`.
    """
    if len(models) < 2:
        raise TokenAdaptError("an ensemble needs two models or more")
    options = options or EnsembleOptions()
    target = options.target
    if target >= len(models):
        raise TokenAdaptError(f"--target {target}: there are {len(models)} models, numbered from 0")
    shares = normalised_weights(options.weights, len(models))
    destination = check_output(out, force=force, inputs=models)
    folders = [open_model(name) for name in models]
    check_own(folders[target].folder, folders[target].folder.glob("*.json"))
    with staged_folder(out, force=force) as staged:
        names = [f"members/{n}" for n in range(len(models))]
        for n, (model, folder, name) in enumerate(zip(models, folders, names, strict=True)):
            if n == target:
                _copy_model(folder, staged / name)
            else:
                put_onto(model, str(folders[target].folder), str(staged / name), adapt, options=merge_options)
        _write_ensemble(folders, folders[target], staged, members=names, weights=shares, mean=options.mean)
    return destination


def _copy_model(folder: ModelFolder, destination: Path) -> None:
    """Copy the weights, configs and tokenizer of the target unchanged."""
    names = {folder.tensors.file(name) for name in folder.tensors.names}
    destination.mkdir(parents=True)
    for file in sorted({*names, *folder.folder.glob("*.json")}):
        shutil.copyfile(file, destination / file.name)
    folder.tokenizer.copy_to(destination)


def _write_ensemble(folders: Sequence[ModelFolder], target: ModelFolder, out: Path, **settings: Any) -> None:
    """Write the ensemble's own config and tokenizer."""
    target.tokenizer.copy_to(out)
    lengths = [n for folder in folders if (n := context_length(folder)) is not None]
    special = {key: target.text_config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    used = set(target.tokenizer.vocabulary.ids().tolist())
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["LockstepForCausalLM"],
        "vocab_size": target.num_rows,
        **settings,
        "padding_ids": [i for i in range(target.num_rows) if i not in used],
        "max_position_embeddings": min(lengths, default=None),
        **special,
    }
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {**special, **target.generation_config})
