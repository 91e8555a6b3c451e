"""Output folders: what may be replaced, what is in the way, before the work and after it."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.ownership import is_ours, mark
from mergekit_tokenadapt.storage.staging import check_output, staged_folder


def make(out: Path, content: str = "new", meanwhile: Callable[[], Any] = lambda: None, **options: Any) -> None:
    """What a command does: look, work, finish; something may happen to the disk meanwhile."""
    with staged_folder(str(out), **options) as staged:
        staged.mkdir()
        (staged / "content").write_text(content)
        meanwhile()


def thesis(folder: Path) -> Path:
    """A folder of somebody else's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("mine")
    return folder


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Nothing below the folder is lost, changed or added."""

    def content() -> dict[str, bytes | None]:
        return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}

    before = content()
    yield
    assert content() == before


# --- whose folder it is ----------------------------------------------------------------------------


def test_what_was_written_here_is_replaced_by_force_only(tmp_path: Path) -> None:
    out = tmp_path / "place" / "out"
    make(out, "old")
    assert is_ours(out)
    with untouched(out.parent), pytest.raises(TokenAdaptError, match="exists already; give another name, or --force"):
        make(out)
    make(out, force=True)
    assert (out / "content").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize(
    "name", ["thesis.txt", "config.json", "tokenadapt.json", "supertokens.json", "align.json", ".git/HEAD"]
)
@pytest.mark.parametrize("content", ["mine", "{}", "[1]", '{"format": "other 1"}', '{"format": 3}', "\xff"])
def test_what_somebody_else_wrote_is_never_replaced(tmp_path: Path, name: str, content: str) -> None:
    out = tmp_path / "place" / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text(content, encoding="latin-1")
    with untouched(out.parent), pytest.raises(TokenAdaptError, match="did not write it"):
        make(out, force=True)
    with pytest.raises(TokenAdaptError, match="did not write it"):
        check_output(out, force=True)


def test_a_link_to_a_manifest_does_not_make_a_folder_ours(tmp_path: Path) -> None:
    make(tmp_path / "ours")
    out = thesis(tmp_path / "out")
    (out / "tokenadapt.json").symlink_to(tmp_path / "ours" / "tokenadapt.json")
    with untouched(tmp_path), pytest.raises(TokenAdaptError, match="did not write it"):
        make(out, force=True)


def test_an_empty_folder_is_replaced_by_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(TokenAdaptError, match="exists already"):
        make(tmp_path / "out")
    make(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "content").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_no_output_folder(tmp_path: Path, force: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with untouched(tmp_path), pytest.raises(TokenAdaptError, match="is not a folder"):
        make(tmp_path / "out", force=force)


# --- what happens meanwhile ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("force", "there"),
    [(False, False), (True, False), (True, True)],
    ids=["without --force", "with --force", "with --force in the place of ours"],
)
def test_a_foreign_folder_that_appears_meanwhile_stays(tmp_path: Path, force: bool, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        make(out, "old")

    def appears() -> None:
        if there:
            os.rename(out, tmp_path / "moved")
        thesis(out)

    with pytest.raises(TokenAdaptError, match="exists already"):
        make(out, meanwhile=appears, force=force)
    assert os.listdir(out) == ["thesis.txt"]
    assert {p.name for p in tmp_path.iterdir()} == {"out"} | ({"moved"} if there else set()), "nothing is left over"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["folder", "file", "link to nothing", "empty folder"])
def test_what_appears_at_the_very_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool, what: str
) -> None:
    """Between the second look and the rename."""
    out = tmp_path / "out"
    real = os.replace
    appear = {
        "folder": lambda: thesis(out),
        "file": lambda: out.write_text("mine"),
        "link to nothing": lambda: out.symlink_to(tmp_path / "nothing"),
        "empty folder": out.mkdir,
    }[what]

    def replace(source: Any, destination: Any) -> None:
        if Path(destination) == out:
            appear()
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    if what == "empty folder":
        make(out, force=force)  # nothing is lost
        assert (out / "content").exists()
        return
    with pytest.raises(TokenAdaptError, match="has appeared meanwhile"):
        make(out, force=force)
    assert not (out / "content").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_foreign_folder_that_takes_the_place_of_ours_after_the_second_look_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make(out, "old")
    real = os.replace

    def replace(source: Any, destination: Any) -> None:
        if Path(source) == out:
            real(out, tmp_path / "moved")
            thesis(out)
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(TokenAdaptError, match="did not write it"):
        make(out, force=True)
    assert os.listdir(out) == ["thesis.txt"]
    assert sorted(os.listdir(tmp_path)) == ["moved", "out"]


def test_of_many_runs_into_one_folder_one_writes(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    wrote, refused = [], []

    def run(name: str) -> None:
        try:
            make(tmp_path / "out", name, meanwhile=together.wait)
            wrote.append(name)
        except TokenAdaptError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrote) == 1
    assert len(refused) == 7
    assert (tmp_path / "out" / "content").read_text() == wrote[0]
    assert os.listdir(tmp_path) == ["out"]


# --- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_a_link_to_nothing_is_refused_before_the_work(tmp_path: Path, force: bool) -> None:
    for name, target in (("out", "nothing"), ("ring", "ring")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(TokenAdaptError, match="is a link to"):
            make(tmp_path / name, meanwhile=lambda: pytest.fail("worked in vain"), force=force)
        with pytest.raises(TokenAdaptError, match="is a link to"):
            check_output(tmp_path / name, force=force)
    assert sorted(os.listdir(tmp_path)) == ["out", "ring"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "real"
    make(real, "old")
    (tmp_path / "out").symlink_to("disk/real")
    with pytest.raises(TokenAdaptError, match="exists already"):
        make(tmp_path / "out")
    make(tmp_path / "out", force=True)
    assert os.readlink(tmp_path / "out") == "disk/real"
    assert (real / "content").read_text() == "new"
    assert os.listdir(real.parent) == ["real"]
    thesis(tmp_path / "theirs")
    (tmp_path / "other").symlink_to("theirs")
    with untouched(tmp_path), pytest.raises(TokenAdaptError, match="did not write it"):
        make(tmp_path / "other", force=True)


# --- inputs ----------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of ours, which --force could replace: they are inputs this time."""
    for name in ("work/model", "work/text", "farm", "blobs", "pair/members/1"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("work", "work/model", "work/text", "blobs", "pair", "pair/members/1"):
        mark(tmp_path / name)
    (tmp_path / "blobs" / "weights").write_text("w")
    (tmp_path / "farm" / "model.safetensors").symlink_to("../blobs/weights")
    (tmp_path / "alias").symlink_to("work/model")
    (tmp_path / "work" / "notes.txt").write_text("text")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path


@pytest.mark.parametrize(
    ("out", "read", "message"),
    [
        ("work/model", "work/model", "is .*, which is read"),
        ("work", "work/model", "holds .*, which is read"),
        ("work", "work/notes.txt", "holds .*, which is read"),
        ("work/model", "alias", "is .*, which is read"),
        ("alias", "work/model", "is .*, which is read"),
        ("work", "alias", "holds"),
        ("work/text/../model", "work/model", "is"),
        ("blobs", "farm", "holds"),
        ("pair/members/1", "pair", "is"),
        ("home", "work/model", "is the working directory"),
        (".", "work/model", "holds the working directory"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_the_output(inputs: Path, out: str, read: str, message: str, force: bool) -> None:
    with untouched(inputs), pytest.raises(TokenAdaptError, match=message):
        check_output(inputs / out, force=force, inputs=[inputs / read])


def test_texts_are_found_in_all_their_spellings(inputs: Path) -> None:
    text = inputs / "work" / "text"
    for spelling in ("{}", "law={}", "{},field=body", "law={},field=body", "ray:{}", "{}/"):
        with pytest.raises(TokenAdaptError, match="is "):
            check_output(text, force=True, texts=[spelling.format(text)])
        with pytest.raises(TokenAdaptError, match=r"lies in .* would be read as text"):
            check_output(text / "new", force=True, texts=[spelling.format(text)])


def test_what_damages_no_input_is_allowed(inputs: Path) -> None:
    """A new folder inside a model's, beside it, or with the name of a hub id."""
    for out in ("work/model/new", "work/other", "pair/members/2", "home/out"):
        check_output(inputs / out, force=False, inputs=[inputs / "work/model", "org/model", inputs / "pair"])


def test_where_nothing_can_be_written_is_found_out_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in ("file/out", "file/a/b/out"):
        with pytest.raises(TokenAdaptError, match="is not a folder"):
            check_output(tmp_path / out, force=False)


def test_a_long_name_is_fine(tmp_path: Path) -> None:
    make(tmp_path / ("x" * 255))
    assert len(os.listdir(tmp_path)) == 1


# --- permissions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_get_the_permissions_of_new_files(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "out") as staged:
            (staged / "members").mkdir(parents=True)
            for file in ("weights", "members/weights"):
                os.close(os.open(staged / file, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for file in ("weights", "members/weights", "tokenadapt.json"):
        assert stat.S_IMODE((tmp_path / "out" / file).stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask


# --- every command ---------------------------------------------------------------------------------


COMMANDS = {
    "transplant": ("transplant", "MODEL", "TOKENIZER", "OUT", "--method", "mean"),
    "transplant with text": ("transplant", "MODEL", "TOKENIZER", "OUT", "--calibration-text", "TEXT"),
    "draft": ("draft", "TOKENIZER", "MODEL", "OUT", "--method", "mean"),
    "distill-prep": ("distill-prep", "TOKENIZER", "MODEL", "OUT", "--method", "mean"),
    "restore": ("restore", "MODEL", "OUT", "--base", "TOKENIZER"),
    "align": ("align", "MODEL", "TOKENIZER", "text=TEXT", "OUT"),
    "ensemble": ("ensemble", "MODEL", "TOKENIZER", "--out", "OUT", "--method", "mean"),
    "supertokens train": ("supertokens", "train", "OUT", "--text", "TEXT", "--vocab-size", "400", "--like", "MODEL"),
    "supertokens extend": ("supertokens", "extend", "MODEL", "OUT", "--text", "TEXT", "--add", "3"),
    "supertokens --onto": (
        *("supertokens", "extend", "TOKENIZER", "NEW", "--text", "TEXT", "--add", "3"),
        *("--onto", "MODEL", "OUT", "--method", "mean"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_no_command_deletes_what_is_not_ours(
    command: tuple[str, ...],
    tmp_path: Path,
    byte_level_folder: Path,
    tiny_model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OUT is a folder of somebody else's, holds inputs, is an input, is the working directory, or leads nowhere."""
    work = tmp_path / "work"
    names = {
        "MODEL": str(tiny_model_folder(byte_level_folder, work / "model")),
        "TOKENIZER": str(tiny_model_folder(byte_level_folder, work / "tokenizer", seed=1)),
        "TEXT": str(work / "text.txt"),
        "NEW": str(tmp_path / "new"),
    }
    (work / "text.txt").write_text("the river and the mill\n" * 30)
    thesis(tmp_path / "theirs")
    mark(work)
    mark(work / "model")
    (tmp_path / "nowhere").symlink_to("nothing")
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "theirs", work, work / "model", tmp_path, Path("."), tmp_path / "nowhere"):
        for force in ([], ["--force"]):
            arguments = [part.replace("TEXT", names["TEXT"]) if "=" in part else part for part in command]
            arguments = [{**names, "OUT": str(out)}.get(part, part) for part in arguments]
            with untouched(tmp_path):
                done = CliRunner().invoke(main, [*arguments, *force])
            assert done.exit_code == 2, done.output
            assert len(done.output.strip().splitlines()) == 1, done.output


@pytest.mark.parametrize("force", [False, True])
def test_outputs_without_a_manifest_of_their_own_get_one(tmp_path: Path, force: bool) -> None:
    make(tmp_path / "out", force=force)
    assert json.loads((tmp_path / "out" / "tokenadapt.json").read_text())["format"] == "mergekit-tokenadapt folder 1"
