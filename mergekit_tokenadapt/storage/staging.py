"""Write an output folder that appears only when it is complete, and that never replaces a folder of someone else.

The output path is checked before the work, so that no work is wasted, and again at the end, because hours may lie
between. The last step is one rename, which fails if a folder has appeared in the meantime.
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
from mergekit_tokenadapt.storage.input_files import local_path
from mergekit_tokenadapt.storage.interruption import signals_wait
from mergekit_tokenadapt.storage.ownership import is_empty, is_ours, mark
from mergekit_tokenadapt.storage.permissions import like_new_files

LOG = logging.getLogger(__name__)

REPLACED = "replaced"
"""Name of the old output inside the hidden staging folder, between the two renames that replace it."""
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""Error numbers of a rename whose destination exists. They differ between operating systems."""


def check_output(
    out: str | Path, *, force: bool, inputs: Iterable[str | Path] = (), texts: Iterable[str | Path] = ()
) -> Path:
    """Check that an output folder can be written. Call this before the first slow step.

    Args:
        out: path of the output folder.
        force: allow an existing folder, if this tool wrote it or it is empty.
        inputs: names of the models, tokenizers and files that the command reads. Names that are no local paths
            (hub ids) are ignored.
        texts: names of files and folders of text that the command reads. A folder is read recursively.

    Returns:
        `out` as a path.

    Raises:
        TokenAdaptError: the output would replace an input or the working directory, or a folder that contains one;
            it lies in a folder of text; it exists and may not be replaced; or it cannot be written.
    """
    place = _resolved(local_path(out))
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
    return local_path(out)


def check_apart(out: str, other: str) -> None:
    """Check that two outputs of one command do not overwrite each other.

    Raises:
        TokenAdaptError: they are the same folder, or one lies in the other.
    """
    one, two = _resolved(local_path(out)), _resolved(local_path(other))
    if one == two or one in two.parents or two in one.parents:
        raise TokenAdaptError(f"{out} and {other} are both written, and neither may be in the other: give another name")


@contextmanager
def staged_folder(out: str | Path, *, force: bool = False, may_be_there: bool = False) -> Iterator[Path]:
    """Provide a staging path, and rename it to `out` when the ``with`` block ends without an exception.

    The block makes the folder at the staging path, which has the same name as `out` and lies in a hidden folder
    ``.NAME-...`` beside it. The hidden folder is removed in the end.

    If `out` is a link to a folder, that folder is replaced and the link stays. If the block writes no manifest, a
    minimal one is added, so that a later run recognises the folder as ours. All files get the permissions of new files.

    A process that is killed leaves the hidden folder behind; the user may delete it. If it was killed between the two
    renames that replace an old output, the old output is in the hidden folder under the name ``replaced``.

    Args:
        out: path of the output folder.
        force: replace an existing folder, if this tool wrote it or it is empty.
        may_be_there: accept an existing folder with the same content, and leave it as it is.

    Yields:
        The staging path. It does not exist yet.

    Raises:
        TokenAdaptError: `out` exists and may not be replaced. This is checked before the work and after it.
    """
    destination = _resolved(local_path(out))
    if not may_be_there:
        _check_replaceable(out, destination, force=force)
    destination.parent.mkdir(parents=True, exist_ok=True)
    stage: Path | None = None
    try:
        with signals_wait():
            # Only part of the name: the hidden name is longer, and could exceed the file system's limit.
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
    """Rename `staged` to `destination`. If that fails, put the old folder back and raise."""
    _check_replaceable(out, destination, force=force)
    aside = staged.parent / REPLACED
    try:
        if os.path.lexists(destination):
            os.replace(destination, aside)
            # Another process may have put a folder there after the first check, so the moved folder is checked, too.
            _check_replaceable(out, aside, force=force)
        os.replace(staged, destination)  # fails if a non-empty folder has appeared
    except BaseException as error:
        if os.path.lexists(aside) and not os.path.lexists(destination):
            os.replace(aside, destination)
        if isinstance(error, OSError) and error.errno in OCCUPIED:
            raise TokenAdaptError(f"{out} has appeared meanwhile and is left as it is; give another name") from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _tidy_up(stage: Path) -> None:
    """Remove the hidden folder, but keep an old output in it that could not be put back."""
    for path in stage.iterdir():
        if path.name != REPLACED:
            shutil.rmtree(path, ignore_errors=True)
    try:
        stage.rmdir()
    except OSError:
        LOG.warning("%s could not be removed: look at what is in it", stage)


def _is_same(folder: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, byte for byte."""
    files, others = ({f.relative_to(one) for f in one.rglob("*") if f.is_file()} for one in (folder, other))
    return files == others and all(filecmp.cmp(folder / f, other / f, shallow=False) for f in files)


# --- looking before the work -----------------------------------------------------------------------


def _resolved(path: Path) -> Path:
    """Follow the symbolic links of a path.

    Raises:
        TokenAdaptError: the path is a broken link, or its links form a loop.
    """
    if path.is_symlink() and not path.exists():
        raise TokenAdaptError(f"{path} is a link to {os.readlink(path)}, which is not there; give another name")
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # Python before 3.13 raises RuntimeError for a loop of links
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
    """Return the existing files and folders that an argument may name.

    Arguments may have the forms ``PATH``, ``NAME=PATH``, ``PATH,field=...`` and ``ray:PATH``. All readings are tried,
    because a check that takes too much for an input does less harm than one that overlooks an input.
    """
    tries = [name, name.partition("=")[2], name.partition(":")[2]]
    tries += [each.partition(",")[0] for each in tries]
    return [path for each in dict.fromkeys(tries) if each and (path := local_path(each)).exists()]


def _real_paths(path: Path) -> Iterator[Path]:
    """Return an input's path with links followed and, for a folder, the targets of the links in it."""
    yield path.resolve()
    if not path.is_dir():
        return
    for folder in (path, *path.glob("members/*/")):  # an ensemble keeps its models in members/
        if folder != path:
            yield folder.resolve()
        for entry in folder.iterdir():
            if entry.is_symlink() and entry.is_file():
                yield entry.resolve()
