"""A check that several evaluation commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.staging import paths_of


def check_page(html: Path | None, inputs: Sequence[str] = ()) -> None:
    """Check before the scoring starts that the page can be written.

    Raises:
        TokenAdaptError: its folder does not exist or is read-only, or the page would overwrite one of the `inputs` or a
            file that is no web page.
    """
    if html is None:
        return
    if not html.parent.is_dir():
        raise TokenAdaptError(f"--html {str(html)!r}: there is no folder {str(html.parent)!r}")
    if not os.access(html.parent, os.W_OK | os.X_OK):
        raise TokenAdaptError(f"--html {str(html)!r}: no permission to write into {str(html.parent)!r}")
    if not html.is_file():
        return
    if any(html.samefile(path) for one in inputs for path in paths_of(one)):
        raise TokenAdaptError(f"--html {str(html)!r} is read, too, and would be lost: give another name")
    with html.open("rb") as opened:
        beginning = opened.read(1000).strip().lower()
    if beginning and not beginning.startswith((b"<!doctype html", b"<html")):
        raise TokenAdaptError(f"--html {str(html)!r} exists and is no web page: it would be lost; give another name")
