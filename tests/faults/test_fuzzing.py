"""Readers of files that others wrote: whatever is in them, they are read, or refused in one line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transplanting import transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matching import match
from mergekit_tokenadapt.transfer.plan_files import load_plan
from mergekit_tokenadapt.two_models.restore import restore

ROUNDS = [pytest.param(4, id="seconds"), pytest.param(80, id="minutes", marks=pytest.mark.slow)]

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    2**24,
    2**31,
    2**64,
    1e308,
    0.5,
    "",
    "x",
    "../../x",
    "▁",
    "\u0000",
    "(a+)+$",
    "x" * 1000,
    [],
    {},
    [[]],
    ["a", "b"],
    {"type": "Sequence"},
    {"id": 1, "content": "a"},
]


def places_in(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to all parts of a JSON value; of long lists and objects only to some."""
    found = [path] if path else []
    children: list[Any] = []
    if isinstance(content, dict):
        children = list(content)
    elif isinstance(content, list):
        children = list(range(len(content)))
    for key in children[:12] + children[12 :: max(1, len(children) // 8)]:
        found += places_in(content[key], (*path, key))
    return found


def mutated(content: Any, rng: random.Random) -> Any:
    """A copy with one to three parts changed, moved or taken away."""
    result = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        places = places_in(result)
        if not places:
            return result
        *way, last = rng.choice(places)
        parent = result
        for key in way:
            parent = parent[key]
        how = rng.random()
        if how < 0.2:
            del parent[last]
        elif how < 0.35 and isinstance(parent, dict):
            parent[rng.choice(["", "type", "id", "vocab", "added_tokens", "extra"])] = parent.pop(last)
        elif how < 0.5:
            other = result
            for key in rng.choice(places):
                if isinstance(other, (dict, list)) and (key in other if isinstance(other, dict) else key < len(other)):
                    other = other[key]
            parent[last] = copy.deepcopy(other)
        else:
            parent[last] = copy.deepcopy(rng.choice(STRANGE))
    return result


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """Bytes removed, changed or put in twice."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        how = rng.random()
        if how < 0.3:
            changed[at] = rng.randrange(256)
        elif how < 0.5:
            del changed[at : at + rng.randint(1, 50)]
        elif how < 0.7:
            changed[at:at] = changed[at : at + rng.randint(1, 50)]
        elif how < 0.8:
            changed[at:at] = rng.choice([b"[" * 5000, b'"', b"}", b"\xff\xfe", b"NaN", b"1e999"])
        else:
            del changed[at:]
        if not changed:
            break
    return bytes(changed)


def read_or_refuse(read: Callable[[], Any], counts: list[int]) -> None:
    """Nothing but a `TokenAdaptError` of one line comes out."""
    said = ""
    try:
        read()
    except TokenAdaptError as error:
        said = str(error)
    counts[bool(said)] += 1
    assert "\n" not in said


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def use_tokenizer(folder: Path, other: Any) -> None:
    """Everything that a transplant asks of a tokenizer."""
    files = load_tokenizer(str(folder))
    vocabulary = files.vocabulary
    _ = files.chat_template, files.model_rows, files.role_tokens, files.files()
    found = match(other, vocabulary)
    assert found.num_rows == vocabulary.num_ids
    Segmenter(files.definition, vocabulary).segment([b" the river", b"\xe4", "小河".encode()])
    assert [t.id for t in vocabulary] == sorted({t.id for t in vocabulary})
    assert vocabulary.num_ids <= 2**20 + 2 * len(vocabulary) + 1


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fuzzed_tokenizer_files(
    tmp_path: Path, rounds: int, zoo: Mapping[str, Any], zoo_folders: Mapping[str, Path], capfd: Any
) -> None:
    rng = random.Random(11)
    counts = [0, 0]
    other = zoo["byte-level"].vocabulary
    contents = {
        family: {
            "tokenizer.json": json.loads((folder / "tokenizer.json").read_text()),
            "tokenizer_config.json": {
                **json.loads((folder / "tokenizer_config.json").read_text()),
                "added_tokens_decoder": {"3": {"content": "x", "special": False}, "9000": {"content": "<y>"}},
                "chat_template": [{"name": "default", "template": "x"}],
            },
            "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"},
            "config.json": {"vocab_size": 5, "text_config": {"vocab_size": 7}},
        }
        for family, folder in zoo_folders.items()
    }
    for n in range(80 * rounds):
        family = rng.choice(list(contents))
        folder = tmp_path / str(n)
        folder.mkdir()
        target = rng.choice([*contents[family], "tokenizer.json", "tokenizer.json"])
        for name, content in contents[family].items():
            if name != "tokenizer.json" and name != target and rng.random() < 0.7:
                continue
            text = json.dumps(mutated(content, rng) if name == target else content).encode()
            if name == target and rng.random() < 0.25:
                text = scrambled(text, rng)
            (folder / name).write_bytes(text)
        read_or_refuse(lambda folder=folder: use_tokenizer(folder, other), counts)
    assert min(counts) > 5 * rounds, counts


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, zoo_folders: Mapping[str, Path], tiny_model_folder: Callable[..., Path]
) -> tuple[Path, Path]:
    """A base model, and what became of it."""
    place = tmp_path_factory.mktemp("fuzzed")
    base = tiny_model_folder(zoo_folders["byte-level"], place / "base")
    return base, transplant(base, zoo_folders["gemma-style"], place / "out", method="calibrated")


def use_plan(file: Path, matrix: torch.Tensor) -> None:
    """What is read can be explained and applied."""
    plan = load_plan(file)
    plan.counts()
    for row in range(min(plan.num_rows, 50)):
        plan.explain(row)
    assert len(plan.apply(matrix).rows) == plan.num_rows


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fuzzed_plans(tmp_path: Path, rounds: int, model: tuple[Path, Path]) -> None:
    rng = random.Random(12)
    counts = [0, 0]
    base, out = model
    file = out / "tokenadapt.plan"
    with safe_open(str(file), framework="pt") as opened:
        header = json.loads(opened.metadata()["plan"])
    tensors, content = load_file(str(file)), file.read_bytes()
    matrix = load_file(str(base / "model.safetensors"))["model.embed_tokens.weight"]
    fuzzed = tmp_path / "fuzzed.plan"
    for _ in range(60 * rounds):
        if rng.random() < 0.3:
            fuzzed.write_bytes(scrambled(content, rng))
        else:
            changed = dict(tensors)
            name = rng.choice(sorted(changed))
            changed[name] = strange_tensor(changed[name], rng)
            metadata = {"plan": json.dumps(mutated(header, rng) if rng.random() < 0.4 else header)}
            save_file({k: t.contiguous() for k, t in changed.items()}, str(fuzzed), metadata=metadata)
        read_or_refuse(lambda: use_plan(fuzzed, matrix), counts)
    assert min(counts) > 2 * rounds, counts


def strange_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Of another shape or type, or with one other value."""
    how = rng.randrange(6)
    if how == 0:
        return tensor[: len(tensor) // 2]
    if how == 1:
        return tensor.reshape(1, -1)
    if how == 2:
        return tensor.float() if not tensor.is_floating_point() else tensor.long()
    if how == 3:
        return torch.zeros(0, dtype=tensor.dtype)
    changed = tensor.clone()
    if changed.dtype == torch.bool:
        return ~changed
    values = [-1, 0, 1, 100] if changed.dtype == torch.int8 else [-1, 0, 3, 2**30]
    changed.view(-1)[rng.randrange(changed.numel())] = rng.choice(values)
    return changed


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fuzzed_manifests(tmp_path: Path, rounds: int, model: tuple[Path, Path]) -> None:
    """`restore` believes a manifest where the base is: it reads only, and refuses what does not fit."""
    rng = random.Random(13)
    counts = [0, 0]
    base, out = model
    manifest = json.loads((out / "tokenadapt.json").read_text())
    folder = tmp_path / "manifest"
    folder.mkdir()
    (folder / "tokenadapt.plan").write_bytes((out / "tokenadapt.plan").read_bytes())
    before = tree(base)
    for n in range(30 * rounds):
        content = json.dumps(mutated(manifest, rng)).encode()
        (folder / "tokenadapt.json").write_bytes(scrambled(content, rng) if rng.random() < 0.3 else content)
        back = tmp_path / f"back-{n}"
        read_or_refuse(lambda back=back: restore(str(out), str(back), manifest=folder), counts)
    assert min(counts) > 2 * rounds, counts
    assert tree(base) == before
    names = {p.name for p in tmp_path.iterdir()} - {f"back-{n}" for n in range(30 * rounds)}
    assert names == {"manifest"}


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fuzzed_model_configs(
    tmp_path: Path, rounds: int, model: tuple[Path, Path], zoo_folders: Mapping[str, Path]
) -> None:
    """config.json, generation_config.json and the index of weights of a base model."""
    rng = random.Random(14)
    counts = [0, 0]
    base, _ = model
    folder = tmp_path / "base"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    names = load_file(str(base / "model.safetensors"))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")})
    )
    targets = ("config.json", "generation_config.json", "model.safetensors.index.json")
    contents = {name: json.loads((folder / name).read_text()) for name in targets}
    for n in range(12 * rounds):
        target = rng.choice(targets)
        for name, content in contents.items():
            text = json.dumps(mutated(content, rng) if name == target else content)
            (folder / name).write_text(text)
        out = tmp_path / f"out-{n}"
        read_or_refuse(lambda out=out: transplant(folder, zoo_folders["gemma-style"], out), counts)
    assert min(counts) > rounds, counts
