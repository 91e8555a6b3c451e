"""Files that are there, but not whole: Git LFS pointers, unfinished downloads, shards without the others.

Folders as users really have them. Each gets a line that says what it is and what to do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError

POINTER = b"version https://git-lfs.github.com/spec/"
"""What a file begins with that Git has left for Git LFS to fetch."""
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
"""Ends of the names that browsers, curl, aria2 and the hub's client give a download that is not done."""
WEIGHTS = (
    ("model.safetensors.index.json", "*.safetensors", "model.safetensors"),
    ("pytorch_model.bin.index.json", "*.bin", "pytorch_model.bin"),
)
"""Of each format: the index of shards, the pattern of its files, and the name where there is one file."""
ADAPTER = "adapter_config.json"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+$")
_FOREIGN = ("*.gguf", "consolidated*", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "*.npz", "*.mlmodel")
"""Weights in the formats of other programs."""


def check_fetched(file: Path) -> None:
    """Refuse a file that holds nothing, or only says where its content is.

    Raises:
        TokenAdaptError: it is empty, or a Git LFS pointer.
    """
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
    if not start:
        kind = " not valid JSON: it is" if file.suffix == ".json" else ""
        raise TokenAdaptError(f"{file} is{kind} empty: download it again")
    if start == POINTER:
        raise TokenAdaptError(
            f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download it again"
        )


def check_model_folder(name: str) -> None:
    """Refuse a path that is no model in the format of transformers, or not a whole one.

    Args:
        name: as the user wrote it; one that is not there may still be a hub id.

    Raises:
        TokenAdaptError: says what is there in place of a model.
    """
    path = Path(name)
    if path.is_file():
        raise TokenAdaptError(f"no model found at {name!r}: it is a file{_advice(path, 'the model')}")
    check_exists(name, "model")
    if not path.is_dir():
        return
    if not (path / "config.json").is_file():
        raise TokenAdaptError(f"{path} is not a model folder: it has no config.json{what_is_there(path)}")
    check_fetched(path / "config.json")
    check_weights(path)


def check_adapter(name: str) -> None:
    """Refuse a path that is no LoRA adapter, or not a whole one.

    Raises:
        TokenAdaptError: says what is wrong.
    """
    check_exists(name, "adapter")
    folder = Path(name)
    if not folder.is_dir():
        return
    weights = [folder / f"adapter_model{suffix}" for suffix in (".safetensors", ".bin")]
    for file in (folder / ADAPTER, *weights):
        if file.is_file():
            check_fetched(file)
    if not (folder / ADAPTER).is_file() or not any(file.is_file() for file in weights):
        missing = "adapter_model.safetensors" if (folder / ADAPTER).is_file() else ADAPTER
        raise TokenAdaptError(f"{name} is not a LoRA adapter: it has no {missing}{_unfinished(folder)}")


def check_exists(name: str, what: str) -> None:
    """Refuse a path that is not there and cannot be a hub id.

    Raises:
        TokenAdaptError: there is nothing at such a path.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise TokenAdaptError(f"no {what} found at {name!r}: there is no such folder")


def check_weights(folder: Path) -> None:
    """Refuse a folder in which a file of weights is missing or not whole, before any of it is read.

    Raises:
        TokenAdaptError: says which.
    """
    for index, pattern, single in WEIGHTS:
        if (folder / index).is_file():
            check_fetched(folder / index)
            check_listed(folder, index)
        if (folder / index).is_file() or (folder / single).is_file():
            for file in sorted(folder.glob(pattern)):
                check_fetched(file)
            return
    for index, pattern, _single in WEIGHTS:
        shards = [match for file in sorted(folder.glob(pattern)) if (match := _SHARD.search(file.name))]
        if shards:
            raise TokenAdaptError(
                f"no model found at {str(folder)!r}: it holds {len(shards)} of {int(shards[0][2])} shards of weights, "
                f"but no {index}, which says what is in them: download it"
            )
    raise TokenAdaptError(
        f"no model found at {str(folder)!r}: it holds no weights (model.safetensors or shards of it)"
        f"{what_is_there(folder)}"
    )


def check_listed(folder: Path, index: str) -> None:
    """Refuse an index that names files that are not there."""
    try:
        listed = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # whoever reads it says what is wrong with it
    if any(".." in Path(str(file)).parts for file in listed):
        return  # likewise: it leads out of the folder
    missing = sorted(str(file) for file in listed if not (folder / str(file)).is_file())
    if missing:
        raise TokenAdaptError(
            f"{folder}: {len(missing)} of {len(listed)} files of weights are missing, {missing[0]} for one: "
            f"download them again{_unfinished(folder)}"
        )


def what_is_there(folder: Path, *, wanted: str = "model") -> str:
    """What a folder holds in place of what was looked for, and what to do: the end of a sentence, or nothing."""
    if (folder / ADAPTER).is_file():
        do = f"give both, as BASE+{folder.name}" if wanted == "model" else "give that one's tokenizer"
        return f"; it is a LoRA adapter of {_base_of(folder)}: {do}"
    if unfinished := _unfinished(folder):
        return unfinished
    foreign = sorted(file.name for pattern in _FOREIGN for file in folder.glob(pattern))
    if foreign:
        return f"; it holds {foreign[0]}, which is another program's: take the {wanted} in the format of transformers"
    return "; it is empty" if not any(folder.iterdir()) else ": download it, too"


def _base_of(adapter: Path) -> str:
    """The model that an adapter says it was trained on."""
    try:
        config = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
        name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError):
        name = None
    return f"the model {name}" if name else "another model"


def _unfinished(folder: Path) -> str:
    # The second is where the hub's client keeps what it has fetched in part.
    files = [*folder.glob("*"), *folder.glob(".cache/huggingface/download/**/*")]
    names = sorted(str(file.relative_to(folder)) for file in files if file.name.endswith(UNFINISHED))
    return f"; the download of {names[0]} was not finished: start it again" if names else ""


def _advice(file: Path, what: str) -> str:
    """What to do where a file was given for a folder."""
    if file.suffix == ".gguf":
        return f", in the GGUF format of llama.cpp: take {what} in the format of transformers"
    return f": give the folder around it, {str(file.parent)!r}"


def file_is_no_tokenizer(file: Path) -> TokenAdaptError:
    """The error where a file was given for a tokenizer that is no tokenizer.json."""
    return TokenAdaptError(
        f"no tokenizer found at {str(file)!r}: it is a file, and no tokenizer.json{_advice(file, 'the tokenizer')}"
    )
