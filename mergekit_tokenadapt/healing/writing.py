"""The healed model's folder: that of the transplanted model, with other weights, and what was done."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.tensor_files import TensorFiles
from mergekit_tokenadapt.models.written import check_written
from mergekit_tokenadapt.output import MANIFEST, package_version, write_json
from mergekit_tokenadapt.storage.tensor_writing import save_tensors
from mergekit_tokenadapt.tokenizer.files import read_json

WEIGHTS = re.compile(r"(model|pytorch_model|consolidated).*\.(safetensors|bin)(\.index\.json)?")
"""Matches the names of files of weights. Others of the same format, such as a student's token map, are not weights."""
CARD = "README.md"


def write_healed(model: ModelFolder, trained: Any, record: Mapping[str, Any], out: Path) -> None:
    """Write the folder.

    Args:
        model: the transplanted model; all its files but weights are taken as they are.
        trained: the model of transformers after training; None: its weights stay as they are.
        record: what was done, for the manifest and the card.
        out: is made.

    Raises:
        TokenAdaptError: what was written would not load.
    """
    out.mkdir()
    for file in sorted(model.folder.iterdir()):
        if file.is_dir():
            shutil.copytree(file, out / file.name)
        elif trained is None or not WEIGHTS.fullmatch(file.name):
            shutil.copyfile(file, out / file.name)
    if trained is not None:
        _write_weights(model, trained, out)
    manifest = dict(read_json(model.folder / MANIFEST)) or {"format": "mergekit-tokenadapt manifest 1"}
    manifest["healing"] = dict(record)
    if (out / CARD).is_file():
        with (out / CARD).open("a", encoding="utf-8") as opened:
            opened.write("\n" + card_text(record) + "\n")
    check_written(out, model.folder)
    write_json(out / MANIFEST, manifest)


def interpolated(model: ModelFolder, trained: Any, share: float) -> None:
    """Put weights between those of `model` and the trained ones, in place (WiSE-FT, arXiv 2109.01903).

    Args:
        model: the transplanted model.
        trained: the model of transformers after training.
        share: how far on the way to the trained weights.
    """
    if share == 1:
        return
    before = dict(load_model(model, device="cpu", dtype="float32").named_parameters())
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            parameter.copy_(torch.lerp(before[name].to(parameter), parameter, share))


def rounded(model: ModelFolder, trained: Any) -> None:
    """Give every weight the precision in which it is stored, in place: so it is measured as it is written."""
    stored = {name: model.tensors.dtype(name) for name in model.tensors}
    usual = next(iter(stored.values()))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            dtype = getattr(torch, stored.get(name, usual))
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))


def _write_weights(model: ModelFolder, trained: Any, out: Path) -> None:
    """Every tensor under the name, in the file and in the dtype that it has in `model`."""
    new = _by_stored_name(model, trained, out)
    files: dict[Path, dict[str, Tensor]] = {}
    for name in model.tensors:
        files.setdefault(model.tensors.file(name), {})[name] = _stored(model, name, new)
    names: dict[str, str] = {}
    for file, tensors in files.items():
        written = out / file.with_suffix(".safetensors").name.replace("pytorch_model", "model")
        save_tensors(tensors, written, {"format": "pt"})
        names |= dict.fromkeys(tensors, written.name)
    if len(files) > 1:
        total = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
        write_json(out / "model.safetensors.index.json", index)


def _by_stored_name(model: ModelFolder, trained: Any, out: Path) -> Mapping[str, Tensor]:
    """The weights by the names that they have in files; the class may call them otherwise."""
    own = dict(trained.state_dict())
    if all(name in own and tuple(own[name].shape) == model.tensors.shape(name) for name in model.tensors):
        return own
    stage = out / ".weights"
    trained.save_pretrained(stage)
    files = TensorFiles(stage)
    found = {name: files.read(name).clone() for name in files}
    shutil.rmtree(stage)
    return found


def _stored(model: ModelFolder, name: str, new: Mapping[str, Tensor]) -> Tensor:
    # What the class does not load, such as layers that predict several tokens ahead, stays as it is.
    old = model.tensors.read(name)
    return new[name].detach().cpu().to(old.dtype).contiguous() if name in new else old.clone()


def card_text(record: Mapping[str, Any]) -> str:
    """A paragraph for the model card, with a table of bits per byte before and after."""
    texts = ", ".join(str(text["name"]) for text in record["texts"])
    lines = [
        "### Healing",
        "",
        f"After the tokenizer was put in place, mergekit-tokenadapt {package_version('mergekit-tokenadapt')} trained "
        f"the model for {record['steps']} steps on {record['tokens']:,} tokens ({texts}), by cross-entropy to what the "
        "base model predicts.",
        "",
        "| bits per byte | before | after |",
        "|---|---|---|",
    ]
    for kind in ("held_out", "probes"):
        lines += [
            f"| {name} ({'held out' if kind == 'held_out' else 'built-in'}) | {before:.3f} | {after:.3f} |"
            for name, before, after in (
                (name, record[kind]["before"][name], record[kind]["after"][name]) for name in record[kind]["before"]
            )
        ]
    return "\n".join(lines)


def as_json(record: Mapping[str, Any]) -> str:
    """The record, for a program."""
    return json.dumps(record, indent=2, ensure_ascii=False)
