"""Large texts out of Debian packages: documentation, dictionaries and source code.

The packages are fetched with ``apt-get download``, which needs no root and installs nothing, and turned into plain
text. Each corpus is split by whole documents into a part to learn from and a part to measure on.

In natural languages only lines of prose are kept, by the rules of C4 (arXiv 1910.10683, section 2.2): at least five
words, and a full stop, question or exclamation mark at the end. Japanese has no spaces, so there a line needs 15
characters. A line of more than 20 characters is kept only once in a corpus, both parts taken together. Lines that
repeat on every page would flatter any tokenizer, and tokens of several words most.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import html
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from examples.samples.models import KEPT

CACHE = KEPT / "texts"
"""Where packages and texts are kept."""

CORPORA: dict[str, dict[str, list[str]]] = {
    "english": {
        "dict-gcide": ["*.dict.dz"],
        "dict-foldoc": ["*.dict.dz"],
        "dict-jargon": ["*.dict.dz"],
        "dict-wn": ["*.dict.dz"],
        "linux-doc-6.1": ["*.html"],
        "rust-doc": ["*.html"],
        "sagemath-doc": ["*/en/*.html"],
        "erlang-doc": ["*.html"],
        "cppreference-doc-en-html": ["*.html"],
        "python3.11-doc": ["*.txt"],
        "python-pandas-doc": ["*.html"],
        "python-scipy-doc": ["*.html"],
        "python-sympy-doc": ["*.html"],
        "python-django-doc": ["*.html"],
        "postgresql-doc-15": ["*.html"],
        "gnome-user-docs": ["*/help/C/*.page"],
        "libreoffice-help-en-us": ["*.html"],
        "gimp-help-en": ["*.html"],
        "openjdk-17-doc": ["*.html"],
        "ghc-doc": ["*.html"],
        "libboost1.81-doc": ["*.html"],
        "lazarus-doc-2.2": ["*.html"],
        "wx3.2-doc": ["*.html"],
        "qtbase5-doc-html": ["*.html"],
        "gap-doc": ["*.html"],
        "maxima-doc": ["*.html"],
        "octave-doc": ["*.html"],
        "r-doc-html": ["*.html"],
        "clang-14-doc": ["*.html"],
        "llvm-14-doc": ["*.html"],
        "libvirt-doc": ["*.html"],
        "gnucash-docs": ["*/C/*.html", "*/en/*.html", "*_C/*.html"],
        "git-doc": ["*.html"],
        "perl-doc": ["*.pod"],
        "lilypond-doc-html": ["*.html"],
        "apache2-doc": ["*.html.en"],
        "debian-handbook": ["*/en-US/*.html"],
        "developers-reference": ["*/developers-reference/*.html"],
        "installation-guide-amd64": ["*/en/*.html", "*.en.html"],
        "mediawiki": ["*/en.json"],
    },
    "code": {
        "linux-source-6.1": ["*.c", "*.h"],
        "mediawiki": ["*.php", "*.js"],
        "emacs-el": ["*.el.gz"],
        "libpython3.11-stdlib": ["*.py"],
        "python3-django": ["*.py"],
        "python3-matplotlib": ["*.py"],
        "python3-networkx": ["*.py"],
        "python3-pandas": ["*.py"],
        "python3-sqlalchemy": ["*.py"],
        "python3-sympy": ["*.py"],
        "python3-twisted": ["*.py"],
    },
    "german": {
        "debian-handbook": ["*/de-DE/*.html"],
        "debian-reference-de": ["*.txt.gz"],
        "gimp-help-de": ["*.html"],
        "gnome-user-docs": ["*/help/de/*.page"],
        "kicad-doc-de": ["*.html"],
        "libreoffice-help-de": ["*.html"],
        "lilypond-doc-html-de": ["*.html"],
        "manpages-de": ["*.gz"],
        "mediawiki": ["*/de.json"],
        "fortunes-de": ["*/fortunes/*"],
    },
    "japanese": {
        "debian-handbook": ["*/ja-JP/*.html"],
        "gnome-user-docs": ["*/help/ja/*.page"],
        "kicad-doc-ja": ["*.html"],
        "libreoffice-help-ja": ["*.html"],
        "manpages-ja": ["*.gz"],
        "mediawiki": ["*/ja.json"],
    },
}
"""Corpus -> package -> files."""

MAX_BYTES_PER_PACKAGE = 60_000_000
"""Bytes of plain text from one package, so that no package dominates a corpus."""
HELD_OUT = 40
"""One document of this many is held out."""
HELD_OUT_BYTES = 2_000_000
SECTION = 32_768
"""A dictionary is one large file, and is split into documents of about this many characters."""


def corpus(name: str) -> tuple[Path, list[str], dict[str, object]]:
    """Return the file to learn from (.jsonl, shuffled), the held-out documents, and a description of both."""
    folder = CACHE / "corpora" / name
    if not (folder / "description.json").is_file():
        _make(name, folder)
    held_out = [json.loads(line)["text"] for line in (folder / "held-out.jsonl").open(encoding="utf-8")]
    return folder / "train.jsonl", held_out, json.loads((folder / "description.json").read_text())


def _make(name: str, folder: Path) -> None:
    seen: set[bytes] = set()
    documents: list[tuple[str, str]] = []
    packages = {}
    for package, patterns in CORPORA[name].items():
        deb = fetch(package)
        size = 0
        for path, text in texts_in_package(deb, patterns):
            kept = _new_lines(text if name == "code" else prose(text, name), seen)
            if len(kept) < 200:
                continue
            documents.append((hashlib.sha256(f"{package}/{path}".encode()).hexdigest(), kept))
            size += len(kept.encode("utf-8"))
            if size > MAX_BYTES_PER_PACKAGE:
                break
        packages[deb.name.rsplit("_", 1)[0]] = size
        print(f"{name}: {package} {size / 1e6:.1f} MB", flush=True)
    documents.sort()  # by hash: an order by chance that is always the same
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": 0, "held-out": 0}
    with (
        (folder / "train.jsonl").open("w", encoding="utf-8") as train,
        (folder / "held-out.jsonl").open("w", encoding="utf-8") as held_out,
    ):
        for digest, text in documents:
            is_out = int(digest, 16) % HELD_OUT == 0
            if is_out and sizes["held-out"] > HELD_OUT_BYTES:
                continue
            (held_out if is_out else train).write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            sizes["held-out" if is_out else "train"] += len(text.encode("utf-8"))
    description = {"bytes": sizes, "documents": len(documents), "packages": packages}
    (folder / "description.json").write_text(json.dumps(description, indent=1))


def fetch(package: str) -> Path:
    """Return the package file; it is downloaded on the first call."""
    folder = CACHE / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=True)
    return max(folder.glob(f"{package}_*.deb"))


def texts_in_package(deb: Path, patterns: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, plain text) of the files in a package that match a pattern."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as files:
            yield from _texts_in(files, patterns)
        process.stdout.close()
        process.kill()


def _texts_in(files: tarfile.TarFile, patterns: list[str]) -> Iterator[tuple[str, str]]:
    for member in files:
        if not member.isfile():
            continue
        opened = files.extractfile(member)
        assert opened is not None
        if member.name.endswith(".tar.xz"):  # the sources of Linux: one file in 10
            with tarfile.open(fileobj=opened, mode="r|xz") as inner:
                for path, text in _texts_in(inner, patterns):
                    if int(hashlib.sha256(path.encode()).hexdigest(), 16) % 10 == 0:
                        yield path, text
        elif any(fnmatch.fnmatch(member.name, p) for p in patterns) and not member.name.endswith(".min.js"):
            yield from _plain(member.name, opened)


def _plain(path: str, opened: IO[bytes]) -> Iterator[tuple[str, str]]:
    content = opened.read()
    if path.endswith((".gz", ".dz")):
        content = gzip.decompress(content)
    if b"\0" in content[:4096]:
        return
    text = content.decode("utf-8", errors="replace")
    if text.count("\ufffd") > len(text) / 1000:
        return
    if path.endswith(".dz"):
        stream, number = io.StringIO(text), 0
        while section := stream.read(SECTION):
            yield f"{path}:{number}", section + stream.readline()
            number += 1
    elif path.endswith(".json"):
        values = json.loads(text)
        yield path, "\n".join(v for k, v in values.items() if isinstance(v, str) and not k.startswith("@"))
    elif ".html" in path or path.endswith(".page"):
        yield path, without_markup(text)
    elif "/man/" in path:
        yield path, _without_roff(text)
    else:
        yield path, text


_HIDDEN = re.compile(r"<(script|style|nav|head|svg)\b.*?</\1>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:p|div|li|ul|ol|h\d|tr|table|dt|dd|pre|br|section|title|item|note)\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


def without_markup(text: str) -> str:
    """Convert HTML to plain text, one paragraph a line."""
    text = re.sub(r"\s+", " ", _HIDDEN.sub("", text))  # line ends mean nothing there
    text = _TAG.sub("", _BLOCK.sub("\n", text))
    return re.sub(r" *\n[\n ]*", "\n", html.unescape(text).replace("\xa0", " ")).strip()


def prose(text: str, language: str) -> str:
    """Return the paragraphs of prose in a text, one a line; the lines of a paragraph are joined."""
    kept = []
    for paragraph in re.split(r"\n(?=\S)(?<=[.!?。]\n)|\n\s*\n", text):
        line = re.sub(r"\s*\n\s*", "" if language == "japanese" else " ", paragraph).strip()
        long_enough = len(line) >= 15 if language == "japanese" else len(line.split()) >= 5
        if long_enough and line.endswith((".", "!", "?", "。", '."', ".)")):
            kept.append(line)
    return "\n".join(kept) + "\n"


def _without_roff(text: str) -> str:
    lines = [re.sub(r"\\f[A-Z]|\\&|\\\(..|^\.[A-Z]+ ?", "", line) for line in text.splitlines() if line[:2] != ".\\"]
    return "\n".join(line.replace("\\-", "-") for line in lines)


def _new_lines(text: str, seen: set[bytes]) -> str:
    kept = []
    for line in text.splitlines():
        if len(line) > 20:
            digest = hashlib.blake2b(line.strip().encode("utf-8", "replace"), digest_size=8).digest()
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept))


if __name__ == "__main__":
    for each in CORPORA:
        print(each, json.dumps(corpus(each)[2]["bytes"]))
