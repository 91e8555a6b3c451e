"""SIGTERM, SIGHUP and Ctrl-C: one line, nothing half written, 128 + the number of the signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers_zoo

from mergekit_tokenadapt.storage.interruption import Interrupted, signal_of, signals_interrupt, signals_wait
from mergekit_tokenadapt.storage.staging import staged_folder

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_transplant_that_is_told_to_end(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path
) -> None:
    """While inputs are read, and while the folder is finished."""
    place = tmp_path / "place"
    place.mkdir()
    arguments = ("transplant", base, gemma_style_folder, place / "out", "--quiet", "--method", "mean")
    events = run(*arguments, count=True).events
    for moment in (events // 3, events - 4):
        shutil.rmtree(place / "out", ignore_errors=True)
        ended = run(*arguments, kill_at=moment, signal="SIGTERM")
        assert ended.code == 128 + signal.SIGTERM
        assert ended.said.strip().splitlines()[-1] == "Stopped by SIGTERM: nothing is left half written."
        assert "Traceback" not in ended.said
        assert os.listdir(place) == []


def test_a_replacement_that_is_told_to_end_between_its_renames(
    run: Callable[..., Any], tmp_path: Path, base: Path, zoo_folders: Mapping[str, Path]
) -> None:
    """The old folder or the new one: the signal waits until the second rename is done."""
    place = tmp_path / "place"
    options = (place / "out", "--quiet", "--method", "mean", "--force")
    first = ("transplant", base, zoo_folders["sentencepiece-bpe"], *options)
    second = ("transplant", base, zoo_folders["gemma-style"], *options)
    run(*first)
    old = content(place)
    events = run(*second, count=True).events
    new = content(place)
    seen = []
    for last in (1, 2, 4):
        if content(place) != old:
            assert run(*first).code == 0
        ended = run(*second, kill_at=events - last, signal="SIGTERM")
        assert ended.code in (0, 128 + signal.SIGTERM), ended.said
        assert os.listdir(place) == ["out"]
        assert content(place) in (old, new)
        seen.append(ended.code != 0)
    assert any(seen)


def test_a_training_that_is_told_to_end(run: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tokenizers_zoo.CORPUS * 20), encoding="utf-8")
    (tmp_path / "place").mkdir()
    arguments = ("supertokens", "train", "--text", text, "--vocab-size", 500, "--quiet", tmp_path / "place" / "out")
    events = run(*arguments, count=True).events
    shutil.rmtree(tmp_path / "place" / "out")
    ended = run(*arguments, kill_at=events - 3, signal="SIGTERM")
    assert ended.code == 128 + signal.SIGTERM
    assert len(ended.said.strip().splitlines()) == 1
    assert os.listdir(tmp_path / "place") == []


def test_the_process_ends_as_a_shell_expects(tmp_path: Path) -> None:
    """From outside: a command that waits in the middle of its work, and `kill`."""
    code = (
        "import signal, time, click\n"
        # A shell's job in the background (a CI's, say) inherits SIGINT ignored, and what is ignored stays so.
        "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from pathlib import Path\n"
        "from mergekit_tokenadapt.cli.lazy import LazyGroup\n"
        "from mergekit_tokenadapt.storage.staging import staged_folder\n"
        "group = LazyGroup('group', commands_in={'work': '__main__:work'})\n"
        "@click.command()\n"
        "def work():\n"
        f"    with staged_folder({str(tmp_path / 'out')!r}) as staged:\n"
        "        staged.mkdir(); print('ready', flush=True); time.sleep(60)\n"
        "group(['work'])\n"
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert said.decode() == f"Stopped by {number.name}: nothing is left half written.\n"
        assert os.listdir(tmp_path) == []


def test_handlers_are_ours_only_while_a_command_runs() -> None:
    before = {name: signal.getsignal(signal.Signals[name]) for name in ENDING}

    def work() -> None:
        with signals_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Interrupted) as caught:
        work()
    assert signal_of(caught.value) is signal.SIGTERM
    assert {name: signal.getsignal(signal.Signals[name]) for name in ENDING} == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """`nohup` starts a process like that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_for_the_end_of_what_must_not_be_half_done() -> None:
    done = []

    def work() -> None:
        with signals_wait():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")

    with signals_interrupt(), pytest.raises(Interrupted):
        work()
    assert done == ["all of it"]


def test_ctrl_c_in_a_library_call_leaves_nothing(tmp_path: Path) -> None:
    def work() -> None:
        with staged_folder(tmp_path / "out") as staged:
            staged.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert os.listdir(tmp_path) == []
