"""Write a checkpoint whose tensors stand in files as those of another checkpoint do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from mergekit_tokenadapt.models.tensor_files import TensorFiles
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.storage.tensor_writing import save_tensors

INDEX = "model.safetensors.index.json"


def write_in_same_files(tensors: TensorFiles, new: Callable[[str], Tensor], out: Path) -> None:
    """Write safetensors files, and their index if there are several. One file at a time is in memory.

    Args:
        tensors: the other checkpoint. Its ``pytorch_model-00001-of-00002.bin`` becomes
            ``model-00001-of-00002.safetensors``.
        new: name of a tensor -> its new content. The tensors of a file must not share memory.
        out: a folder that exists.

    Raises:
        OSError: a file cannot be written.
    """
    by_file: dict[str, list[str]] = {}
    for name in tensors.names:
        by_file.setdefault(f"{tensors.file(name).stem.removeprefix('pytorch_')}.safetensors", []).append(name)
    total = 0
    for file, names in by_file.items():
        content = {name: new(name).contiguous() for name in names}
        total += sum(tensor.numel() * tensor.element_size() for tensor in content.values())
        save_tensors(content, out / file, {"format": "pt"})
    if len(by_file) > 1:
        files = {name: file for file, names in by_file.items() for name in names}
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))})
