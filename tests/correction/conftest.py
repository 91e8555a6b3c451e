"""A text to correct with, and a cache of the test's own."""

import pytest
from calibration_lines import LINES


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Shards go to a cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(folder))
    return folder


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"{line} {n}" for n in range(30) for line in LINES), encoding="utf-8")
    return file
