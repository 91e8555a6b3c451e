"""Fixtures for all tests: tiny tokenizers of five families, and tiny models. No network."""

# ruff: noqa: E402

from __future__ import annotations

import os
import shutil

# Before anything imports huggingface_hub: a test that reaches for the network fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The matrices are tiny: several threads would only wait for each other.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import tokenizers_zoo
import torch
from forked import Server, serving
from tokenizers_zoo import FAMILIES, OTHER_SPELLINGS, Definition

from mergekit_tokenadapt.numerics import inner_products
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer

hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def built_families() -> Mapping[str, tokenizers_zoo.Built]:
    """Family -> (tokenizer.json, tokenizer_config.json). Not to be changed."""
    return {family: build() for family, build in FAMILIES.items()}


@pytest.fixture(scope="session")
def zoo_folders(
    built_families: Mapping[str, tokenizers_zoo.Built], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Family -> folder with its tokenizer. Not to be changed."""
    root = tmp_path_factory.mktemp("zoo")
    return {f: tokenizers_zoo.write_tokenizer(root / f, *built) for f, built in built_families.items()}


@pytest.fixture(scope="session")
def zoo(zoo_folders: Mapping[str, Path]) -> Mapping[str, TokenizerFiles]:
    """Family -> the loaded tokenizer."""
    return {family: load_tokenizer(str(folder)) for family, folder in zoo_folders.items()}


@pytest.fixture(scope="session")
def byte_level_folder(zoo_folders: Mapping[str, Path]) -> Path:
    """GPT-2 style."""
    return zoo_folders["byte-level"]


@pytest.fixture(scope="session")
def sentencepiece_bpe_folder(zoo_folders: Mapping[str, Path]) -> Path:
    """Llama style: dummy space, byte fallback."""
    return zoo_folders["sentencepiece-bpe"]


@pytest.fixture(scope="session")
def gemma_style_folder(zoo_folders: Mapping[str, Path]) -> Path:
    """No dummy space; runs of spaces are added tokens."""
    return zoo_folders["gemma-style"]


@pytest.fixture(scope="session")
def unigram_folder(zoo_folders: Mapping[str, Path]) -> Path:
    """Unigram with a Metaspace."""
    return zoo_folders["unigram"]


@pytest.fixture(scope="session")
def wordpiece_folder(zoo_folders: Mapping[str, Path]) -> Path:
    """BERT style."""
    return zoo_folders["wordpiece"]


@pytest.fixture(scope="session", params=list(OTHER_SPELLINGS))
def other_spelling(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenizerFiles:
    """A tokenizer of each rarer form in turn."""
    folder = tmp_path_factory.mktemp("spelling")
    return load_tokenizer(str(tokenizers_zoo.write_tokenizer(folder, *OTHER_SPELLINGS[request.param]())))


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def tokenizer_folder(family: str, zoo_folders: Mapping[str, Path]) -> Path:
    """The folder of each family in turn."""
    return zoo_folders[family]


@pytest.fixture(scope="session")
def tokenizer(family: str, zoo: Mapping[str, TokenizerFiles]) -> TokenizerFiles:
    """The loaded tokenizer of each family in turn."""
    return zoo[family]


@pytest.fixture(scope="session")
def tiny_model_folder() -> Callable[..., Path]:
    """``tiny_model_folder(tokenizer_folder, path, tied=True, dtype=..., seed=0, rows=None)``."""
    return tokenizers_zoo.tiny_model_folder


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TokenizerFiles]:
    """Write a definition (and a config) to a fresh folder, and load it."""
    numbers = iter(range(1000))

    def load_definition(definition: Definition, config: Mapping[str, object] | None = None) -> TokenizerFiles:
        folder = tmp_path / f"tokenizer-{next(numbers)}"
        return load_tokenizer(str(tokenizers_zoo.write_tokenizer(folder, definition, config)))

    return load_definition


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a folder that a test may break."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"copy-of-{folder.name}"))

    return copy


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of atoms, and several groups in each, in small sets of atoms."""
    monkeypatch.setattr(inner_products, "BLOCK", 128)
    monkeypatch.setattr(inner_products, "GROUP", 8)


@pytest.fixture(scope="session")
def stock() -> Iterator[Server]:
    """A process that has imported what `mergekit-yaml` imports: our plugin is installed, and not active yet."""
    with serving("stock") as started:
        yield started


@pytest.fixture(scope="session")
def without_plugin() -> Iterator[Server]:
    """The same where the plugin is switched off."""
    with serving("stock", PYDANTIC_DISABLE_PLUGINS="mergekit-tokenadapt") as started:
        yield started
