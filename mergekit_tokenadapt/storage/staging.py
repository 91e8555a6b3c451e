"""Write a folder that appears when it is complete, or not at all, and that never replaces what is not ours.

OUT is checked twice: before the work, so that no work is wasted, and at the end, because hours may lie between. The
last step is one rename, which fails if a folder has appeared in the meantime.
"""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.interruption import signals_wait
from mergekit_tokenadapt.storage.ownership import is_empty, is_ours, mark
from mergekit_tokenadapt.storage.permissions import like_new_files

LOG = logging.getLogger(__name__)

REPLACED = "replaced"
"""Name of the old folder inside the hidden one, between two renames."""
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""Why a folder cannot be renamed to a name: something is there."""


def check_output(
    out: str | Path, *, force: bool, inputs: Iterable[str | Path] = (), texts: Iterable[str | Path] = ()
) -> Path:
    """The folder to be made, as it was named. To be called before the first slow step.

    Args:
        out: the folder.
        force: it may be replaced, if this tool wrote it or it is empty.
        inputs: models, tokenizers and files that are read; names that are no paths here are left aside.
        texts: likewise; a folder of text is read with all that lies below it.

    Raises:
        TokenAdaptError: it is or holds an input or the working directory, or lies in a folder of text; it exists
            and `force` is not given; this tool did not write it; or it cannot be written.
    """
    place = _resolved(Path(out))
    _check_inputs(out, place, [Path.cwd()], "the working directory")
    for one in (*inputs, *texts):
        for path in paths_of(str(one)):
            _check_inputs(out, place, _real_paths(path), f"{one}, which is read")
    for text in texts:
        for path in paths_of(str(text)):
            if path.is_dir() and path.resolve() in place.parents:
                raise TokenAdaptError(f"{out} lies in {text}, and would be read as text: give another name")
    _check_replaceable(out, place, force=force)
    _check_writable(out, place)
    return Path(out)


def check_apart(out: str, other: str) -> None:
    """Refuse two outputs of one command of which one would replace the other.

    Raises:
        TokenAdaptError: they are one folder, or one is in the other.
    """
    one, two = _resolved(Path(out)), _resolved(Path(other))
    if one == two or one in two.parents or two in one.parents:
        raise TokenAdaptError(f"{out} and {other} are both written, and neither may be in the other: give another name")


@contextmanager
def staged_folder(out: str | Path, *, force: bool = False, may_be_there: bool = False) -> Iterator[Path]:
    """A path beside `out`, with the same name, to be made into a folder; it becomes `out` if nothing is raised.

    Where `out` is a link to a folder, that folder is replaced, and the link stays. Where no manifest is written, one
    is added: it says that the folder is ours. Files get the permissions that new ones get.

    A process that is killed leaves the hidden folder ``.NAME-...`` beside `out`, which may be deleted. If that
    was between the two renames that replace a folder, the old one is in there, as ``replaced``.

    Args:
        out: the folder.
        force: replace what is there, if this tool wrote it or it is empty.
        may_be_there: a folder that is there already with the same content is left as it is, and that is no error.

    Raises:
        TokenAdaptError: `out` exists and may not be replaced, before the work or after it.
    """
    destination = _resolved(Path(out))
    if not may_be_there:
        _check_replaceable(out, destination, force=force)
    destination.parent.mkdir(parents=True, exist_ok=True)
    stage: Path | None = None
    try:
        with signals_wait():
            # Part of the name: a hidden name may be too long where the name itself is not.
            stage = Path(tempfile.mkdtemp(prefix=f".{destination.name[:40]}-", dir=destination.parent))
        staged = stage / destination.name
        yield staged
        mark(staged)
        like_new_files(staged.rglob("*"))
        if not (may_be_there and _is_same(staged, destination)):
            with signals_wait():
                _put(staged, destination, out, force=force)
    finally:
        if stage is not None:
            with signals_wait():
                _tidy_up(stage)


def _put(staged: Path, destination: Path, out: str | Path, *, force: bool) -> None:
    """Rename `staged` to `destination`, or leave that as it is."""
    _check_replaceable(out, destination, force=force)
    aside = staged.parent / REPLACED
    try:
        if os.path.lexists(destination):
            os.replace(destination, aside)
            _check_replaceable(out, aside, force=force)  # what was moved counts: it may have come after the first look
        os.replace(staged, destination)  # fails where something that is not empty has appeared
    except BaseException as error:
        if os.path.lexists(aside) and not os.path.lexists(destination):
            os.replace(aside, destination)
        if isinstance(error, OSError) and error.errno in OCCUPIED:
            raise TokenAdaptError(f"{out} has appeared meanwhile and is left as it is; give another name") from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _tidy_up(stage: Path) -> None:
    """Remove the hidden folder; not the old folder in it, where that could not be put back."""
    for path in stage.iterdir():
        if path.name != REPLACED:
            shutil.rmtree(path, ignore_errors=True)
    try:
        stage.rmdir()
    except OSError:
        LOG.warning("%s could not be removed: look at what is in it", stage)


def _is_same(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    files, others = ({f.relative_to(one) for f in one.rglob("*") if f.is_file()} for one in (folder, other))
    return files == others and all(filecmp.cmp(folder / f, other / f, shallow=False) for f in files)


# --- looking before the work -----------------------------------------------------------------------


def _resolved(path: Path) -> Path:
    """Where the folder really is, links followed."""
    if path.is_symlink() and not path.exists():
        raise TokenAdaptError(f"{path} is a link to {os.readlink(path)}, which is not there; give another name")
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a ring of links
        raise TokenAdaptError(f"{path} cannot be written: {error}") from error


def _check_replaceable(out: str | Path, place: Path, *, force: bool) -> None:
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise TokenAdaptError(f"{out} exists already, and is not a folder; give another name")
    if not force:
        raise TokenAdaptError(f"{out} exists already; give another name, or --force to replace it")
    if not (is_ours(place) or is_empty(place)):
        raise TokenAdaptError(
            f"{out} exists already, and mergekit-tokenadapt did not write it: it is not replaced, even with --force; "
            "give another name, or remove it yourself"
        )


def _check_inputs(out: str | Path, place: Path, paths: Iterable[Path], what: str) -> None:
    for path in paths:
        if path == place or place in path.parents:
            verb = "is" if path == place else "holds"
            raise TokenAdaptError(f"{out} {verb} {what}: it would be lost; give another name")


def _check_writable(out: str | Path, place: Path) -> None:
    parent = next(p for p in place.parents if os.path.lexists(p))
    if not parent.is_dir():
        raise TokenAdaptError(f"{out} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TokenAdaptError(f"{out} cannot be written: no permission to write into {parent}")


def paths_of(name: str) -> list[Path]:
    """The files and folders that an argument may mean: ``PATH``, ``NAME=PATH``, ``PATH,field=...``, ``ray:PATH``."""
    tries = [name, name.partition("=")[2], name.partition(":")[2]]
    tries += [each.partition(",")[0] for each in tries]
    return [Path(each) for each in dict.fromkeys(tries) if each and os.path.exists(each)]


def _real_paths(path: Path) -> Iterator[Path]:
    """Where an input really is; and, if it is a folder, the files that links in it lead to."""
    yield path.resolve()
    if not path.is_dir():
        return
    for folder in (path, *path.glob("members/*/")):  # an ensemble has models in it
        if folder != path:
            yield folder.resolve()
        for entry in folder.iterdir():
            if entry.is_symlink() and entry.is_file():
                yield entry.resolve()
