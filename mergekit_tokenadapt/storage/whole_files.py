"""Detect incomplete models and tokenizers: Git LFS pointers, unfinished downloads, missing shards of weights.

Each case gets an error of one line that says what was found and what to do.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError

POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a pointer file, which Git leaves in place of a file that Git LFS has not fetched."""
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
"""Suffixes that browsers, curl, aria2 and the hub's client give to an unfinished download."""
WEIGHTS = (
    ("model.safetensors.index.json", "*.safetensors", "model.safetensors"),
    ("pytorch_model.bin.index.json", "*.bin", "pytorch_model.bin"),
)
"""For each format of weights: name of the shard index, pattern of all files, and name of a single file."""
ADAPTER = "adapter_config.json"
"""Config of a LoRA adapter (PEFT)."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+$")
FOREIGN = ("*.gguf", "consolidated*", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "*.npz", "*.mlmodel")
"""Patterns of weight files in formats that transformers does not load by itself."""


def check_fetched(file: Path) -> None:
    """Refuse an empty file and a Git LFS pointer.

    Raises:
        TokenAdaptError: the file is one of these.
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
    """Refuse a path that holds no complete model in the format of transformers.

    Args:
        name: what the user wrote. A name that does not exist locally is accepted if it may be a hub id.

    Raises:
        TokenAdaptError: there is no such model. The message says what the path holds instead.
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
    """Refuse a path that holds no complete LoRA adapter.

    Raises:
        TokenAdaptError: the path does not exist, or the config or the weights of the adapter are missing.
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
    """Refuse a path that does not exist and cannot be a hub id.

    Args:
        name: what the user wrote.
        what: the kind of thing, for the message ("model").

    Raises:
        TokenAdaptError: nothing exists at the path.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise TokenAdaptError(f"no {what} found at {name!r}: there is no such folder")


def check_weights(folder: Path) -> None:
    """Refuse a folder in which weight files are missing or incomplete. Only the first bytes of each file are read.

    Raises:
        TokenAdaptError: a file of weights is missing, empty or a Git LFS pointer, or there are none at all.
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
    """Refuse an index of shards that names files that do not exist.

    Raises:
        TokenAdaptError: a file is missing.
    """
    try:
        listed = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # the code that reads the index reports what is wrong with it
    if any(".." in Path(str(file)).parts for file in listed):
        return  # the code that reads the index refuses paths out of the folder
    # Unlike that of Path, this function is False for a name that is too long for a file.
    missing = sorted(str(file) for file in listed if not os.path.isfile(folder / str(file)))
    if missing:
        raise TokenAdaptError(
            f"{folder}: {len(missing)} of {len(listed)} files of weights are missing, {missing[0]} for one: "
            f"download them again{_unfinished(folder)}"
        )


def what_is_there(folder: Path, *, wanted: str = "model") -> str:
    """Describe what a folder holds instead of the wanted thing, and what to do about it.

    Args:
        folder: the folder.
        wanted: what was looked for, "model" or "tokenizer".

    Returns:
        The end of an error message, with its leading punctuation.
    """
    if (folder / ADAPTER).is_file():
        do = f"give both, as BASE+{folder.name}" if wanted == "model" else "give that one's tokenizer"
        return f"; it is a LoRA adapter of {_base_of(folder)}: {do}"
    if unfinished := _unfinished(folder):
        return unfinished
    foreign = sorted(file.name for pattern in FOREIGN for file in folder.glob(pattern))
    if foreign:
        found = f"{foreign[0]}, which is in the format of another program"
        return f"; it holds {found}: use the {wanted} in the format of transformers"
    return "; it is empty" if not any(folder.iterdir()) else ": download it, too"


def _base_of(adapter: Path) -> str:
    """Return the base model that an adapter's config names, in words for a message."""
    try:
        config = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
        name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError):
        name = None
    return f"the model {name}" if name else "another model"


def _unfinished(folder: Path) -> str:
    """Return the end of a message that names an unfinished download in the folder, or an empty string."""
    # The hub's client keeps partly fetched files in the second of these places.
    files = [*folder.glob("*"), *folder.glob(".cache/huggingface/download/**/*")]
    names = sorted(str(file.relative_to(folder)) for file in files if file.name.endswith(UNFINISHED))
    return f"; the download of {names[0]} was not finished: start it again" if names else ""


def _advice(file: Path, what: str) -> str:
    """Return the end of a message for a user who named a file where a folder was expected."""
    if file.suffix == ".gguf":
        return f", in the GGUF format of llama.cpp: use {what} in the format of transformers"
    return f": give the folder around it, {str(file.parent)!r}"


def file_is_no_tokenizer(file: Path) -> TokenAdaptError:
    """Make the error for a user who named a file other than ``tokenizer.json`` as the tokenizer."""
    return TokenAdaptError(
        f"no tokenizer found at {str(file)!r}: it is a file, and no tokenizer.json{_advice(file, 'the tokenizer')}"
    )
