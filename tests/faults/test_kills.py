"""SIGKILL at any moment: no output folder or a complete one, the old one kept, and a rerun that succeeds."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers_zoo
from safetensors.torch import load_file

from mergekit_tokenadapt.evaluation.checks import Status, run_checks
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

MOMENTS = [pytest.param(6, id="6 moments"), pytest.param(50, id="50 moments", marks=pytest.mark.slow)]
WEIGHTS = "model.safetensors"


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder: a complete output is the same bytes in every run."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def leftovers(folder: Path) -> list[Path]:
    """What a killed command leaves behind: a hidden folder each."""
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def assert_sound(out: Path, base: Path) -> None:
    """`check` finds nothing wrong."""
    findings = run_checks(open_model(str(out)), open_model(str(base)))
    assert [f for f in findings if f.status is Status.FAILED] == []


def moments(events: int, seconds: float, number: int, seed: int) -> list[dict[str, Any]]:
    """Half of them between two dealings with files, as far as there are so many, the others at any time."""
    rng = random.Random(seed)
    at = sorted(rng.sample(range(1, events + 1), min(events, number // 2)))
    return [{"kill_at": n} for n in at] + [{"kill_after": rng.uniform(0, seconds)} for _ in range(number - len(at))]


@pytest.mark.parametrize("number", MOMENTS)
def test_a_transplant_that_is_killed(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path, number: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    arguments = ("transplant", base, gemma_style_folder, out, "--quiet", "--method", "hybrid")
    whole = run(*arguments, count=True)
    assert (whole.code, leftovers(place)) == (0, []), whole.said
    assert whole.events > 30
    assert_sound(out, base)
    expected = content(out)
    killed = 0
    for moment in moments(whole.events, whole.seconds, number, seed=1):
        shutil.rmtree(out)
        ended = run(*arguments, **moment)
        assert ended.code in (0, -signal.SIGKILL), ended.said
        killed += ended.code != 0
        if not out.exists():
            again = run(*arguments)
            assert again.code == 0, again.said
        assert content(out) == expected
    assert killed >= number // 2
    assert all(path.name.startswith(".out-") for path in leftovers(place)), "known by their name"


@pytest.mark.parametrize("number", MOMENTS)
def test_a_transplant_that_is_killed_while_it_replaces_a_folder(
    run: Callable[..., Any],
    tmp_path: Path,
    base: Path,
    zoo_folders: Mapping[str, Path],
    number: int,
) -> None:
    """With --force: the old model stays, or the new one is there; between two renames both are in the hidden folder."""
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    options = ("--quiet", "--method", "mean", "--force")
    first = ("transplant", base, zoo_folders["sentencepiece-bpe"], out, *options)
    assert run(*first).code == 0
    assert_sound(out, base)
    old = content(out)
    arguments = ("transplant", base, zoo_folders["gemma-style"], out, *options)
    whole = run(*arguments, count=True)
    assert_sound(out, base)
    new = content(out)
    assert (whole.code, leftovers(place)) == (0, [])
    assert old != new
    killed = 0
    for last in range(min(number, whole.events)):  # the last dealings with files, the two renames among them
        for path in leftovers(place):
            shutil.rmtree(path)
        assert run(*first).code == 0
        ended = run(*arguments, kill_at=whole.events - last)
        # Runs differ by a few dealings (modules and caches that are looked for): the last may not come.
        assert ended.code in (0, -signal.SIGKILL), ended.said
        killed += ended.code != 0
        if out.exists():
            assert content(out) in ((old, new) if ended.code else (new,))
        else:
            kept = [content(weights.parent) for weights in place.rglob(WEIGHTS)]
            assert len(kept) == 2, "neither is lost"
            assert old in kept
            assert new in kept
    assert killed > number // 2


@pytest.mark.parametrize("number", MOMENTS)
def test_a_supertoken_training_that_is_killed(run: Callable[..., Any], tmp_path: Path, number: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tokenizers_zoo.CORPUS * 20), encoding="utf-8")
    out = place / "out"
    arguments = ("supertokens", "train", "--text", text, "--vocab-size", 500, "--quiet", out)
    whole = run(*arguments, count=True)
    assert (whole.code, leftovers(place)) == (0, []), whole.said
    assert len(load_tokenizer(str(out)).vocabulary) > 400
    expected = content(out)
    for moment in moments(whole.events, whole.seconds, number, seed=2):
        shutil.rmtree(out)
        ended = run(*arguments, **moment)
        assert ended.code in (0, -signal.SIGKILL), ended.said
        if not out.exists():
            assert run(*arguments).code == 0
        assert content(out) == expected
    assert all(path.name.startswith(".out-") for path in leftovers(place))


def test_a_calibration_that_is_killed_goes_on_from_what_it_had_read(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path
) -> None:
    """Its cache holds whole files only, whatever the moment."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tokenizers_zoo.CORPUS * 12), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ("transplant", base, gemma_style_folder, out, "--quiet", "--method", "mean", "--calibration-text", text)
    whole = run(*arguments, count=True, cache=tmp_path / "first")
    assert whole.code == 0, whole.said
    expected = load_file(out / WEIGHTS)
    for n, share in enumerate((0.5, 0.9)):
        shutil.rmtree(out)
        ended = run(*arguments, kill_at=int(whole.events * share), cache=tmp_path / f"cache-{n}")
        assert ended.code == -signal.SIGKILL
        assert not out.exists()
        assert run(*arguments, cache=tmp_path / f"cache-{n}").code == 0
        found = load_file(out / WEIGHTS)
        assert all((found[name] == expected[name]).all() for name in expected)
