"""The text that benchmarks calibrate on: English, German, Chinese and code in equal parts, and some sums.

English, German and Chinese are three translations of the Debian Reference, out of Debian packages (fetched
with ``apt-get download``, which needs no rights and installs nothing); code and sums are those of
``calibration_text: default``. The evaluation's built-in texts have nothing in common with any of them;
`alike` has other text of the same kinds.
"""

from __future__ import annotations

import functools
import re
import sysconfig
from pathlib import Path

from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.texts import cut_passages
from samples.debian_texts import CACHE, fetch, texts_in_package

LANGUAGES = {"prose": "en", "de": "de", "zh": "zh-cn"}
"""By the names of the built-in texts of the same kind."""
BYTES_EACH = 240_000
SUMS_BYTES = 29_000
FIRST_UNREAD = 300_000
"""Bytes of a translation after which `alike` begins: other chapters than those that `mixed` has."""
PACKAGES = ("asyncio", "email", "http", "unittest")
"""Of Python's library; the default sample takes modules that are in no package."""
NUM_DOCUMENTS, DOCUMENT = 6, 1000
"""Of each kind that `alike` gives, and bytes of each."""
_LINES = re.compile(r"[-─═│┌┐└┘├┤┬┴┼+|_]{3,}")


def mixed() -> Path:
    """A folder with one text for each of the five, of the same size; made when needed."""
    folder = CACHE / "calibration-text"
    if folder.is_dir():
        return folder
    stage = folder.with_suffix(".partial")
    stage.mkdir(parents=True, exist_ok=True)
    code, sums = _code_and_sums()
    texts = {name: _start(_reference(name), BYTES_EACH) for name in LANGUAGES}
    texts |= {"code": _start(code, BYTES_EACH), "arithmetic": _start(sums, SUMS_BYTES)}
    for name, text in texts.items():
        (stage / f"{name}.txt").write_text(text, encoding="utf-8")
    stage.rename(folder)
    return folder


@functools.cache
def alike() -> dict[str, list[str]]:
    """Documents of the five kinds that `mixed` does not have: other chapters, other modules, other sums."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [file for package in PACKAGES for file in sorted((library / package).glob("*.py"))]
    _, sums = _code_and_sums()
    texts = {name: _rest(_reference(name), FIRST_UNREAD) for name in LANGUAGES}
    texts |= {
        "code": "".join(file.read_text(encoding="utf-8") for file in modules),
        "arithmetic": _rest(sums, SUMS_BYTES),
    }
    return {name: _evenly_spaced(list(cut_passages(text, DOCUMENT))) for name, text in texts.items()}


def _reference(name: str) -> str:
    """The Debian Reference in one language, without the lines that draw tables."""
    code = LANGUAGES[name]
    ((_, text),) = texts_in_package(fetch(f"debian-reference-{code}"), [f"*/debian-reference.{code}.txt.gz"])
    return re.sub(r"[ ]{2,}", " ", _LINES.sub(" ", text))


def _code_and_sums() -> tuple[str, str]:
    """Of the default sample: every fourth passage of code, and all sums."""
    passages = CalibrationText.read("default", 0).passages
    sums = [p for p in passages if re.match(r"[-0-9]+ [-+*/] ", p)]
    return "".join(p for n, p in enumerate(passages) if p not in sums and n % 4 == 0), "".join(sums)


def _start(text: str, num_bytes: int) -> str:
    return text.encode("utf-8")[:num_bytes].decode("utf-8", errors="ignore")


def _rest(text: str, num_bytes: int) -> str:
    return text.encode("utf-8")[num_bytes:].decode("utf-8", errors="ignore")


def _evenly_spaced(passages: list[str]) -> list[str]:
    return [passages[(2 * n + 1) * len(passages) // (2 * NUM_DOCUMENTS)] for n in range(NUM_DOCUMENTS)]


if __name__ == "__main__":
    for file in sorted(mixed().iterdir()):
        print(file.name, file.stat().st_size)
    for name, documents in alike().items():
        print(name, sum(len(document.encode("utf-8")) for document in documents))
