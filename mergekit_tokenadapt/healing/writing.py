"""The healed model's folder: that of the transplanted model, with other weights, and what was done."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.tensor_files import WEIGHT_FILE, TensorFiles
from mergekit_tokenadapt.models.written import check_written
from mergekit_tokenadapt.output import MANIFEST, package_version, write_json
from mergekit_tokenadapt.output.same_files import write_in_same_files
from mergekit_tokenadapt.storage.whole_files import FOREIGN, WEIGHTS
from mergekit_tokenadapt.terminal.progress import without_bars
from mergekit_tokenadapt.tokenizer.chat_templates import NAMED_FOLDER
from mergekit_tokenadapt.tokenizer.files import read_json

LOG = logging.getLogger(__name__)

CARD = "README.md"
INDEXES = tuple(index for index, _pattern, _single in WEIGHTS)
OTHER_WEIGHTS = (*FOREIGN, "*.onnx_data", "*.bin", "*.pt")
"""Patterns of files beside the weights of transformers that hold weights or the state of an earlier training."""
LEARNED = {
    "base_model": "by cross-entropy to what the base model predicts",
    "chunks": "so that parts of the text become as likely as they are to the base model (ALM, arXiv 2503.20083)",
    "next_token": "by cross-entropy to the text itself",
}
"""What the card says of each objective."""


def write_healed(model: ModelFolder, trained: Any, record: Mapping[str, Any], out: Path) -> None:
    """Write the folder.

    Subfolders and weights in other formats hold the model before training, so they are left out with a warning.

    Args:
        model: the transplanted model; its other files are taken as they are.
        trained: the model of transformers after training; None: its weights stay as they are.
        record: what was done, for the manifest and the card.
        out: is made.

    Raises:
        TokenAdaptError: what was written would not load.
    """
    out.mkdir()
    _copy_files(model, out, with_weights=trained is None)
    if trained is not None:
        _write_weights(model, trained, out)
    manifest = dict(read_json(model.folder / MANIFEST)) or {"format": "mergekit-tokenadapt manifest 1"}
    manifest["healing"] = dict(record)
    if (out / CARD).is_file():
        with (out / CARD).open("a", encoding="utf-8") as opened:
            opened.write("\n" + card_text(record) + "\n")
    check_written(out, model.folder)
    write_json(out / MANIFEST, manifest)


def _copy_files(model: ModelFolder, out: Path, *, with_weights: bool) -> None:
    """Copy the files of a model's folder, and warn about those that are left out."""
    left_out = []
    for file in sorted(model.folder.iterdir()):
        if not _is_carried_along(file, with_weights=with_weights):
            left_out.append(file)
        elif file.is_dir():
            shutil.copytree(file, out / file.name)
        else:
            shutil.copyfile(file, out / file.name)
    replaced = {model.tensors.file(name) for name in model.tensors}
    names = [file.name for file in left_out if file not in replaced and file.name not in INDEXES]
    if names:
        LOG.warning(
            "the healed model goes without %s of %s: subfolders and weights in other formats are not healed",
            ", ".join(names),
            model.name,
        )


def _is_carried_along(file: Path, *, with_weights: bool) -> bool:
    """Whether a file or subfolder of a model is that of the healed model, too."""
    if file.is_dir():
        return file.name == NAMED_FOLDER
    if WEIGHT_FILE.fullmatch(file.name):
        return with_weights
    return not any(map(file.match, OTHER_WEIGHTS))


def interpolated(model: ModelFolder, trained: Any, share: float) -> None:
    """Put weights between those of `model` and the trained ones, in place (WiSE-FT, arXiv 2109.01903).

    Args:
        model: the transplanted model.
        trained: the model of transformers after training.
        share: how far on the way to the trained weights.
    """
    if share == 1:
        return
    stored = set(_stored_dtypes(model).values())
    # Half the memory where all weights are stored in 16 bits, and the same numbers.
    dtype = stored.pop() if len(stored) == 1 else torch.float32
    before = dict(load_model(model, device="cpu", dtype=dtype).named_parameters())
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            parameter.copy_(torch.lerp(before[name].to(parameter), parameter, share))


def rounded(model: ModelFolder, trained: Any) -> None:
    """Give every weight the precision in which it is stored, in place: so it is measured as it is written."""
    stored = _stored_dtypes(model)
    usual = Counter(stored.values()).most_common(1)[0][0]
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            dtype = next((stored[s] for s in _spellings(name, trained) if s in stored), usual)
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))


def _stored_dtypes(model: ModelFolder) -> dict[str, torch.dtype]:
    """The dtypes of the weights in the model's files. Older files of GPT-2 hold masks, too, which are no weights."""
    dtypes = {name: model.tensors.dtype(name) for name in model.tensors}
    return {name: getattr(torch, dtype) for name, dtype in dtypes.items() if "float" in dtype}


def _write_weights(model: ModelFolder, trained: Any, out: Path) -> None:
    """Every tensor under the name, in the file and in the dtype that it has in `model`."""
    stored_as = _by_stored_name(model, trained, out)

    def new(name: str) -> Tensor:
        old, made = model.tensors.read(name), stored_as[name]
        # What the class does not load, such as layers that predict several tokens ahead, stays as it is. Copies: tied
        # matrices are one tensor of the class, and may be two in the file.
        return old.clone() if made is None else made.detach().to("cpu", old.dtype, copy=True)

    write_in_same_files(model.tensors, new, out)


def check_writable(model: ModelFolder, loaded: Any, beside: Path | None) -> None:
    """Refuse, before it is trained, a model whose weights could not be written under the names of its files.

    Args:
        model: the transplanted model.
        loaded: its model of transformers.
        beside: a folder for temporary files; None for the system's.

    Raises:
        TokenAdaptError: it is one.
    """
    _by_stored_name(model, loaded, beside)


def _by_stored_name(model: ModelFolder, trained: Any, beside: Path | None) -> Mapping[str, Tensor | None]:
    """The weights by the names that they have in files; None for a tensor that the class does not load.

    Raises:
        TokenAdaptError: the class saves a tensor under a name that no stored tensor has.
    """
    own = dict(trained.state_dict())
    if all(_fits(own, name, model, name) for name in model.tensors):
        return {name: own[name] for name in model.tensors}
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=beside) as stage, without_bars():
        trained.save_pretrained(stage)
        files = TensorFiles(Path(stage))
        saved = {name: files.read(name).clone() for name in files}
    known = own | saved  # a tied matrix is saved once
    chosen = {
        name: next((s for s in _spellings(name, trained) if _fits(known, s, model, name)), None)
        for name in model.tensors
    }
    if lost := saved.keys() - set(chosen.values()):
        raise TokenAdaptError(
            f"{model.name} cannot be healed: transformers saves the tensor {min(lost)}, and no tensor in the model's "
            "files has this name and shape"
        )
    return {name: None if one is None else known[one] for name, one in chosen.items()}


def _spellings(name: str, model: Any) -> tuple[str, str, str]:
    """A tensor's name, also with and without the class's prefix: files may hold `wte.weight` for GPT-2's
    `transformer.wte.weight`."""
    prefix = f"{model.base_model_prefix}."
    return name, prefix + name, name.removeprefix(prefix)


def _fits(tensors: Mapping[str, Tensor], name: str, model: ModelFolder, stored: str) -> bool:
    """Whether there is a tensor of this name, with the shape of a stored one."""
    return name in tensors and tuple(tensors[name].shape) == model.tensors.shape(stored)


def card_text(record: Mapping[str, Any]) -> str:
    """A paragraph for the model card, with a table of bits per byte before and after."""
    objective = LEARNED[record["options"]["objective"]]
    texts = ", ".join(f"{text['name']} (SHA-256 {text['sha256'][:16]}...)" for text in record["texts"])
    lines = [
        "### Healing",
        "",
        f"After the tokenizer was put in place, mergekit-tokenadapt {package_version('mergekit-tokenadapt')} trained "
        f"the model for {record['steps']} steps on {record['tokens']:,} tokens ({texts}), {objective}.",
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
    if record["curve"]:
        share = record["options"]["interpolate"]
        lines += ["", f"Held-out passages during training, in bits per byte; of this change, {share:.0%} is kept:", ""]
    for look in record["curve"]:
        figures = ", ".join(f"{name} {bits:.3f}" for name, bits in look["bits_per_byte"].items())
        lines.append(f"- step {look['step']}: {figures}")
    return "\n".join(lines)
