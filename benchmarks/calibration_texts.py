"""The text that benchmarks calibrate on: English, German, Chinese and code in equal parts, and some sums.

English, German and Chinese are three translations of the Debian Reference, out of Debian packages (fetched
with ``apt-get download``, which needs no rights and installs nothing); code and sums are those of
``calibration_text: default``. The evaluation's built-in texts have nothing in common with any of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from supertokens_texts import CACHE, fetch, texts_in_package

from mergekit_tokenadapt.calibration_text import CalibrationText

LANGUAGES = {"english": "en", "german": "de", "chinese": "zh-cn"}
BYTES_EACH = 240_000
_LINES = re.compile(r"[-─═│┌┐└┘├┤┬┴┼+|_]{3,}")


def mixed() -> Path:
    """A folder with one text for each of the five, of the same size; made when needed."""
    folder = CACHE / "calibration"
    if folder.is_dir():
        return folder
    stage = folder.with_suffix(".partial")
    stage.mkdir(parents=True, exist_ok=True)
    for name, code in LANGUAGES.items():
        ((_, text),) = texts_in_package(fetch(f"debian-reference-{code}"), [f"*/debian-reference.{code}.txt.gz"])
        _write(stage / f"{name}.txt", re.sub(r"[ ]{2,}", " ", _LINES.sub(" ", text)))
    passages = CalibrationText.read("default", 0).passages
    sums = [p for p in passages if re.match(r"[-0-9]+ [-+*/] ", p)]
    _write(stage / "sums.txt", "".join(sums))
    _write(stage / "code.txt", "".join(p for n, p in enumerate(passages) if p not in sums and n % 4 == 0))
    stage.rename(folder)
    return folder


def _write(file: Path, text: str) -> None:
    file.write_text(text.encode("utf-8")[:BYTES_EACH].decode("utf-8", errors="ignore"), encoding="utf-8")


if __name__ == "__main__":
    for file in sorted(mixed().iterdir()):
        print(file.name, file.stat().st_size)
