"""The calibration text: its passages, and which of them are held out."""

import json
from operator import add, floordiv, mul, sub
from pathlib import Path

import pytest
import torch
from calibration_lines import LINES

from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.correction import run as run_module
from mergekit_tokenadapt.correction import text as text_module
from mergekit_tokenadapt.errors import TokenAdaptError


def test_passages_put_together_are_the_text(text_file):
    text = CalibrationText.read(str(text_file), 0)
    assert "".join(text.passages) == text_file.read_text(encoding="utf-8")
    assert len(text.passages) >= 50
    assert text.describe()["bytes"] == text_file.stat().st_size


def test_a_long_text_is_thinned_out_evenly(text_file):
    everything = CalibrationText.read(str(text_file), 0)
    some = CalibrationText.read(str(text_file), everything.describe()["bytes"] // 3)
    places = [everything.passages.index(p) for p in some.passages]
    assert places == sorted(places)
    assert places[-1] > 0.9 * len(everything.passages)
    assert some.describe()["bytes"] == pytest.approx(everything.describe()["bytes"] / 3, rel=0.15)


def test_one_passage_in_ten_is_held_out_and_the_others_are_fitted():
    text = CalibrationText("test", tuple(f"passage {n}" for n in range(40)))
    assert [n for n in range(40) if text.is_held_out(n)] == [5, 15, 25, 35]
    tokens = torch.tensor([3, 4, 5, 5, 6, 15])  # the passages of six positions
    part = {
        "states": torch.zeros(6, 2),
        "next_ids": torch.zeros(6, dtype=torch.int64),
        "passages": tokens,
        "indptr": torch.zeros(7, dtype=torch.int64),
        "ids": torch.zeros(0, dtype=torch.int32),
        "weights": torch.zeros(0),
        "base_bits": torch.tensor(0.0),
    }
    positions, _ = run_module._join([part], text)
    assert positions.is_held_out.tolist() == [False, False, True, True, False, True]


def test_the_default_sample_does_not_depend_on_the_order_of_a_folder(tmp_path, monkeypatch):
    """Python's library by name, whatever its bytes, and sums that are right."""
    (tmp_path / "b.py").write_text("b = 2\n")
    (tmp_path / "a.py").write_bytes(b"# caf\xe9\n")
    monkeypatch.setattr(text_module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=True))
    *sources, sums = text_module.default_sample()
    assert sources == ["# caf\ufffd\n", "b = 2\n"]
    lines = sums.splitlines()
    assert len(lines) == 2000
    assert sums == "\n".join(lines) + "\n"
    for line in lines:
        a, operation, b, equals, result = line.split(" ")
        assert equals == "="
        assert {"+": add, "-": sub, "*": mul, "/": floordiv}[operation](int(a), int(b)) == int(result)


def test_jsonl_fields_and_the_default_sample(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"body": f"{line} {n}"}) + "\n" for n in range(5) for line in LINES))
    assert "river runs" in CalibrationText.read(f"{file},field=body", 0).passages[0]
    sample = CalibrationText.read("default", 50_000)
    assert sample == CalibrationText.read("default", 50_000)
    assert any("def " in p for p in sample.passages)
    assert sample.describe()["bytes"] == pytest.approx(50_000, rel=0.2)


def test_text_that_is_missing_or_too_short_is_refused(tmp_path):
    with pytest.raises(TokenAdaptError, match="calibration_text text: there is no file or folder"):
        CalibrationText.read(str(tmp_path / "nothing"), 0)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(TokenAdaptError, match="is too short"):
        CalibrationText.read(str(tmp_path / "short.txt"), 0)


def test_a_ray_dataset_is_refused_in_one_line():
    with pytest.raises(TokenAdaptError, match=r"calibration_text: ray:texts\.parquet: only supertokens"):
        CalibrationText.read("ray:texts.parquet,field=body", 0)
