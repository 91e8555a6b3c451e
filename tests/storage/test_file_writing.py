"""Files that are written whole or not at all, and pages that take no other file's place."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mergekit_tokenadapt.cli.eval_options import check_page
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.file_writing import write_file


def write_on_a_full_disk(file: Path) -> subprocess.CompletedProcess[str]:
    """No file may grow beyond 100 bytes in that process."""

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    code = f"""
from pathlib import Path
from mergekit_tokenadapt.storage.file_writing import write_file
write_file(Path({str(file)!r}), "x" * 9999)
"""
    return subprocess.run([sys.executable, "-c", code], preexec_fn=full, capture_output=True, text=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, there: bool) -> None:
    file = tmp_path / "report.html"
    if there:
        file.write_text("<html>old</html>")
    done = write_on_a_full_disk(file)
    assert "OSError" in done.stderr
    assert os.listdir(tmp_path) == (["report.html"] if there else [])
    assert not there or file.read_text() == "<html>old</html>"


def test_a_name_that_is_not_utf8_can_be_written_in_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"te\xffxt.txt")
    write_file(tmp_path / "file.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8")) == {"name": name}


def test_a_file_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    write_file(tmp_path / "fresh", "new")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o666 & ~umask
    assert sorted(os.listdir(tmp_path)) == ["fresh", "link", "real"]


def test_a_device_is_written_to() -> None:
    write_file(Path("/dev/null"), "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_page_takes_no_other_files_place(tmp_path: Path) -> None:
    for name, content in (("thesis.docx", b"PK"), ("config.json", b"{}"), ("notes.html", b"plain notes")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TokenAdaptError, match="is no web page"):
            check_page(tmp_path / name)
    page = tmp_path / "page.html"
    page.write_text("\n<!DOCTYPE html><html></html>")
    check_page(page)
    with pytest.raises(TokenAdaptError, match="is read, too"):
        check_page(page, [f"web={page}"])
    (tmp_path / "empty").touch()
    check_page(tmp_path / "empty")
    check_page(tmp_path / "new.html")
