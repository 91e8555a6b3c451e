"""Commands run from outside, so that they can be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers_zoo
from forked import Ended, Server, serving

Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One process that has imported everything."""
    with serving("ours") as started:
        yield started


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    """``run("transplant", base, target, out, kill_at=7)``: an `Ended`."""

    def run_command(*arguments: Any, **what: Any) -> Ended:
        environment = {"MERGEKIT_TOKENADAPT_CACHE": str(what.pop("cache", tmp_path / "cache"))}
        return server.run(tmp_path, "mergekit-tokenadapt", *arguments, env=environment, **what)

    return run_command


@pytest.fixture
def base(tmp_path: Path, byte_level_folder: Path) -> Path:
    """A tiny tied model of this test's own, with the byte-level tokenizer."""
    return tokenizers_zoo.tiny_model_folder(byte_level_folder, tmp_path / "base")
