"""Write single files completely, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write_file(file: Path, text: str) -> None:
    """Write a text as UTF-8 into a temporary file beside `file`, then rename that file to `file`.

    A full disk therefore leaves the old content of `file` as it was. If `file` is a symbolic link, its target is
    replaced. Pipes and devices (``/dev/stdout``) cannot be replaced, so they are written to directly.

    Raises:
        OSError: the file cannot be written.
    """
    place = file.resolve()
    # Names of files that are not UTF-8 reach us with lone surrogates. In JSON, `\udcff` is how to write one.
    if place.exists() and not place.is_file():
        place.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    # The random part keeps two processes apart. The name is shortened, because file systems limit its length.
    aside = place.with_name(f".{place.name[:40]}-{secrets.token_hex(4)}")
    try:
        with aside.open("x", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
        if place.exists():  # the new file keeps the permissions of the old one
            shutil.copymode(place, aside)
        os.replace(aside, place)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
