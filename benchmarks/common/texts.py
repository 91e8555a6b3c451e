"""The calibration text of benchmarks: English, German, Chinese and code in equal parts, and some sums.

English, German and Chinese are three translations of the Debian Reference. They come from Debian packages, which
``apt-get download`` fetches; it needs no root and installs nothing. Code and sums are those of ``calibration_text:
default``. The built-in texts of the evaluation have other sources. `alike` has other text from the same sources.
"""

from __future__ import annotations

import functools
import re
import sysconfig
from pathlib import Path

from examples.samples.debian_texts import CACHE, corpus, fetch, texts_in_package
from mergekit_tokenadapt.correction import CalibrationText
from mergekit_tokenadapt.texts import split_passages

LANGUAGES = {"prose": "en", "de": "de", "zh": "zh-cn"}
"""Name of the built-in text of the same language to the language code of the translation."""
BYTES_EACH = 240_000
SUMS_BYTES = 29_000
SEVERAL_LANGUAGES = "code in several languages"
TWICE = "twice as much text"
FOLDERS = {
    "": "calibration-text",
    SEVERAL_LANGUAGES: "calibration-text-several-languages",
    TWICE: "calibration-text-twice",
}
"""The kinds of `mixed`, and where they are kept."""
FIRST_UNREAD = 300_000
"""Bytes of a translation after which `alike` begins: other chapters than those that `mixed` has."""
PACKAGES = ("asyncio", "email", "http", "unittest")
"""Packages of Python's standard library. The default sample has only modules that are in no package."""
NUM_DOCUMENTS, DOCUMENT = 6, 1000
"""Documents of each kind that `alike` returns, and bytes of each."""
EXCERPT = 3000
"""Bytes of each file of code in several languages."""
_LINES = re.compile(r"[-─═│┌┐└┘├┤┬┴┼+|_]{3,}")


def mixed(kind: str = "") -> Path:
    """Return a folder with one text file for each of the five kinds; it is made on the first call.

    Args:
        kind: with `SEVERAL_LANGUAGES`, the code is C, JavaScript, PHP, Emacs Lisp and Python, as much as there is
            otherwise of Python alone. With `TWICE`, each translation is twice as long, and the code is both.
    """
    folder = CACHE / FOLDERS[kind]
    if folder.is_dir():
        return folder
    stage = folder.with_suffix(".partial")
    stage.mkdir(parents=True, exist_ok=True)
    code, sums = _code_and_sums()
    times = 2 if kind == TWICE else 1
    texts = {name: _start(_reference(name), times * BYTES_EACH) for name in LANGUAGES}
    python = _start(code, BYTES_EACH)
    others = _code_in_several_languages() if kind else ""
    texts |= {
        "code": {"": python, SEVERAL_LANGUAGES: others, TWICE: f"{python}\n{others}"}[kind],
        "arithmetic": _start(sums, SUMS_BYTES),
    }
    for name, text in texts.items():
        (stage / f"{name}.txt").write_text(text, encoding="utf-8")
    stage.rename(folder)
    return folder


def _code_in_several_languages() -> str:
    """Return the starts of files of Debian packages, evenly spaced among the held-out ones."""
    _, files, _ = corpus("code")
    number = BYTES_EACH // EXCERPT
    return "\n".join(_start(files[n * len(files) // number], EXCERPT) for n in range(number))


@functools.cache
def alike() -> dict[str, list[str]]:
    """Return documents of the five kinds that `mixed` does not contain: other chapters, modules and sums."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [file for package in PACKAGES for file in sorted((library / package).glob("*.py"))]
    _, sums = _code_and_sums()
    texts = {name: unread(name) for name in LANGUAGES}
    texts |= {
        "code": "".join(file.read_text(encoding="utf-8") for file in modules),
        "arithmetic": _rest(sums, SUMS_BYTES),
    }
    return {name: _evenly_spaced(list(split_passages(text, DOCUMENT))) for name, text in texts.items()}


def unread(name: str) -> str:
    """Return the chapters of a translation of which `mixed` has nothing; `alike` takes its documents from them."""
    return _rest(_reference(name), FIRST_UNREAD)


def _reference(name: str) -> str:
    """Return the Debian Reference in one language, without the lines that draw tables."""
    code = LANGUAGES[name]
    ((_, text),) = texts_in_package(fetch(f"debian-reference-{code}"), [f"*/debian-reference.{code}.txt.gz"])
    return re.sub(r"[ ]{2,}", " ", _LINES.sub(" ", text))


def _code_and_sums() -> tuple[str, str]:
    """Return every fourth passage of code of the default sample, and all of its sums."""
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
