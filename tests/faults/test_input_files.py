"""Pipes, sockets and devices in folders that are read, and links that lead out of them."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from transplanting import transplant

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.storage.input_files import check_own, check_plain
from mergekit_tokenadapt.tokenizer.files import load_tokenizer


@pytest.fixture
def target(tmp_path: Path, gemma_style_folder: Path) -> Path:
    return Path(shutil.copytree(gemma_style_folder, tmp_path / "target"))


# --- pipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors", "chat_template.jinja"])
def test_a_pipe_in_the_place_of_a_file_is_one_line(base: Path, target: Path, tmp_path: Path, name: str) -> None:
    """Each command with it as base, as target, as either: none waits for somebody to write into the pipe."""
    (base / name).unlink(missing_ok=True)
    os.mkfifo(base / name)
    for command in (
        (main, "transplant", base, target, tmp_path / "out"),
        (main, "transplant", target, base, tmp_path / "out"),
        (main, "plan", base, target),
        (main, "plan", target, base),
        (main, "draft", base, target, tmp_path / "out"),
        (main, "restore", base, tmp_path / "out"),
        (main, "supertokens", "report", base),
        (evaluate, "check", base),
        (evaluate, "compare", base, base),
        (evaluate, "tokenizer", base),
    ):
        group, *arguments = command
        done = CliRunner().invoke(group, [str(a) for a in arguments])
        assert done.exit_code == 2, done.output
        error = done.output.strip().splitlines()[-1]
        assert f"{name} is a named pipe" in error or "is not a model folder" in error, done.output
    assert not (tmp_path / "out").exists()


def test_sockets_and_links_to_devices_are_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("vocab.json")
        with pytest.raises(TokenAdaptError, match=r"vocab\.json is a socket"):
            check_plain(tmp_path)
    (tmp_path / "vocab.json").unlink()
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(TokenAdaptError, match=r"config\.json is a device"):
        check_plain(tmp_path)


def test_what_nobody_reads_does_not_matter(base: Path) -> None:
    os.mkfifo(base / "log")
    (base / "missing.json").symlink_to("nothing")
    open_model(str(base))


# --- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["vocab.txt", "chat_template.jinja", "tokenizer.model", "tokenizer.json", "merges.txt"]
)
def test_a_link_out_of_the_target_is_not_copied(base: Path, target: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secrets" / name
    secret.parent.mkdir()
    if (target / name).exists():
        shutil.move(target / name, secret)
    else:
        secret.write_text("secret")
    (target / name).symlink_to(secret)
    with pytest.raises(TokenAdaptError, match=r"is a link to .*, which is outside its folder"):
        transplant(base, target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["generation_config.json", "preprocessor_config.json"])
def test_a_link_out_of_the_base_is_not_carried_over(base: Path, target: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "credentials.json").write_text('{"token": "secret"}')
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to("../credentials.json")
    with pytest.raises(TokenAdaptError, match="outside its folder"):
        transplant(base, target, tmp_path / "out")


def test_the_bases_template_is_only_taken_from_its_own_folder(base: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (base / "chat_template.jinja").symlink_to("../secret")
    transplant(base, target, tmp_path / "fine")
    assert not any(f.read_bytes() == b"secret" for f in (tmp_path / "fine").iterdir())
    with pytest.raises(TokenAdaptError, match="outside its folder"):
        transplant(base, target, tmp_path / "out", chat_template="base")


def test_a_restored_folder_holds_nothing_from_outside(base: Path, target: Path, tmp_path: Path) -> None:
    out = transplant(base, target, tmp_path / "moved")
    (tmp_path / "secret").write_text("secret")
    (base / "merges.txt").symlink_to("../secret")
    done = CliRunner().invoke(main, ["restore", str(out), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "outside its folder" in done.output
    assert not (tmp_path / "out").exists()


def hub_cache(files: Path, place: Path) -> Path:
    """A snapshot as the hub's cache keeps it: links into the blobs of the repository."""
    snapshot = place / "models--org--name" / "snapshots" / "0123"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for n, file in enumerate(sorted(files.iterdir())):
        shutil.copyfile(file, blobs / f"{n:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{n:040x}")
    return snapshot


def test_the_hubs_cache_is_read_as_ever(base: Path, target: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(target, tmp_path / "hub")
    out = transplant(hub_cache(base, tmp_path / "other"), snapshot, tmp_path / "out")
    assert (out / "tokenizer.json").read_bytes() == (target / "tokenizer.json").read_bytes()
    assert not (out / "tokenizer.json").is_symlink()
    foreign = tmp_path / "other" / "models--org--name" / "blobs" / f"{0:040x}"
    (snapshot / "vocab.txt").symlink_to(foreign)
    with pytest.raises(TokenAdaptError, match="outside its folder"):
        transplant(base, snapshot, tmp_path / "second")


def test_links_within_the_folder_and_to_the_folder_are_fine(
    base: Path, target: Path, tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    shutil.move(target / "tokenizer.json", target / "real.json")
    (target / "tokenizer.json").symlink_to("real.json")
    (tmp_path / "alias").symlink_to(target)
    loaded = load_tokenizer(str(tmp_path / "alias"))
    check_own(loaded.folder, loaded.files())
    shutil.move(base / "model.safetensors", tmp_path / "weights")
    (base / "model.safetensors").symlink_to(tmp_path / "weights")  # weights may lie on another disk
    transplant(base, tmp_path / "alias", tmp_path / "out")
