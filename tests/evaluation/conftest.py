"""Fixtures of the evaluation tests: session-wide folders that are not to be changed, and copies to break."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

from mergekit_tokenadapt.cli.evaluate import main

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="session")
def english() -> Tokenizer:
    return tiny_models.byte_level_tokenizer(tiny_models.ENGLISH, 340)


@pytest.fixture(scope="session")
def german() -> Tokenizer:
    return tiny_models.byte_level_tokenizer(tiny_models.GERMAN + tiny_models.ENGLISH[:1], 360)


@pytest.fixture(scope="session")
def base(root: Path, english: Tokenizer) -> Path:
    """A tied model with the English tokenizer."""
    return tiny_models.write_model(root / "base", english)


@pytest.fixture(scope="session")
def out(root: Path, base: Path, german: Tokenizer) -> Path:
    """The base model with the German tokenizer, and the plan."""
    return tiny_models.transplant(base, german, root / "out")


@pytest.fixture(scope="session")
def untied(root: Path, english: Tokenizer) -> Path:
    return tiny_models.write_model(root / "untied", english, tied=False, seed=5)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `mergekit-tokenadapt-eval` in this process; what a user would see is in `.output`."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="mergekit-tokenadapt-eval")

    return invoke
