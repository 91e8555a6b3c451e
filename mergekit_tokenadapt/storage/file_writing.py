"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write_file(file: Path, text: str) -> None:
    """Write a text beside the file, then rename it: a disk that is full leaves what was there.

    Where `file` is a link, what it leads to is replaced. Pipes and devices (``/dev/stdout``) are written to.

    Raises:
        OSError: it cannot be written.
    """
    place = file.resolve()
    if place.exists() and not place.is_file():
        place.write_text(text, encoding="utf-8")
        return
    aside = place.with_name(f".{place.name[:40]}-{secrets.token_hex(4)}")
    try:
        with aside.open("x", encoding="utf-8") as opened:
            opened.write(text)
        if place.exists():
            shutil.copymode(place, aside)
        os.replace(aside, place)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
