"""Texts: what is built in, what is read, and what a report says about it."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.texts import BUILTIN, LANGUAGES, TextSet, builtin_text, parallel_texts, read_text


def test_built_in_texts_cover_languages_and_scripts() -> None:
    scripts = {
        unicodedata.name(c).split()[0] for code in LANGUAGES for c in builtin_text(code).documents[1] if c.isalpha()
    }
    assert len(LANGUAGES) >= 8
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "DEVANAGARI", "THAI", "HANGUL", "CJK", "HIRAGANA"}
    assert {"code", "arithmetic", "hard", "prose"} <= set(BUILTIN)


def test_the_declaration_is_parallel() -> None:
    texts = parallel_texts()
    assert {len(text.documents) for text in texts.values()} == {31}
    assert texts["en"].documents[2] == "Everyone has the right to life, liberty and the security of person."
    assert texts["fr"].documents[2] == "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne."


def test_built_in_texts_are_small_and_are_all_utf8() -> None:
    texts = [builtin_text(name) for name in BUILTIN]
    assert sum(text.num_bytes for text in texts) < 400_000
    assert sum(text.num_repaired for text in texts) == 0


def test_arithmetic_is_right() -> None:
    lines = "\n".join(builtin_text("arithmetic").documents).splitlines()
    sums = [line.split(" = ") for line in lines if " = " in line and "." not in line]
    assert len(sums) > 50
    assert all(eval(left) == int(right) for left, right in sums)


def test_hash_and_bytes_are_of_the_documents_that_are_scored() -> None:
    text = TextSet.of("t", ["ab", "", "ä", "c" * 10], "test")
    assert (text.num_empty, text.num_bytes) == (1, 14)
    assert text.sha256 == hashlib.sha256("ab\0ä\0cccccccccc\0".encode()).hexdigest()
    assert text.limited(3).documents == ("ab", "ä")
    assert text.limited(0) is text
    assert text.limited(3).describe()["bytes"] == 4


def test_bytes_that_are_not_utf8_are_repaired_and_counted() -> None:
    text = TextSet.of("t", [b"good", b"bad \xff", "half \ud800"], "test")
    assert text.num_repaired == 2
    assert text.documents[1] == "bad �"


def test_files_folders_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("first")
    (tmp_path / ".hidden").write_text("no")
    assert read_text(f"own={tmp_path}").documents == ("first", "second")
    assert read_text(f"own={tmp_path}/b.txt").documents == ("second",)
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "one", "body": "uno"}\n\n{"text": "two", "body": "dos"}\n')
    assert read_text(f"own={lines}").documents == ("one", "two")
    assert read_text(f"own={lines},field=body").documents == ("uno", "dos")


def test_a_folder_is_read_without_what_is_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkout has packed files below `.git`, and pictures."""
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    (tmp_path / ".git" / "objects" / "pack").write_text("no")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "a.py").write_text("code")
    assert read_text(f"own={tmp_path}").documents == ("code",)
    assert "own: 1 files are not read, because they contain zero bytes or are UTF-16" in caplog.text
    assert "image.png" in caplog.text


def test_packed_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}\n{"text": "three"}\n'))
    assert read_text(str(tmp_path)).documents == ("one", "two", "three")
    assert read_text(str(tmp_path / "a.txt.gz")).documents == ("one",)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one" * 99)[:-12])
    with pytest.raises(TokenAdaptError, match=r"a\.txt\.gz cannot be read"):
        read_text(str(tmp_path))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"\0one"))
    with pytest.raises(TokenAdaptError, match="contains zero bytes"):
        read_text(str(tmp_path / "a.txt.gz"))


def test_other_encodings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Mühle\r\n".encode("utf-8-sig"))
    assert read_text(str(file)).documents == ("Mühle\r\n",)
    assert not caplog.text
    file.write_bytes("Mühle".encode("latin-1"))
    assert read_text(str(file)).documents == ("M\ufffdhle",)
    assert "--text a: 1 of 1 documents are not UTF-8" in caplog.text
    file.write_bytes("水车磨面".encode("utf-16"))
    with pytest.raises(TokenAdaptError, match="is not a text in UTF-8"):
        read_text(str(file))


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("one")
    assert read_text("~/a.txt").documents == read_text("own=~/a.txt").documents == ("one",)


@pytest.mark.parametrize("line", ["{", "[1]", '{"text": 3}', "[" * 100_000], ids=["open", "list", "number", "deep"])
def test_bad_jsonl_names_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(TokenAdaptError, match="line 2"):
        read_text(f"own={file}")


def test_a_dataset_is_read_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Library:
            assert (name, config, split, streaming) == ("owner/set", "small", "test", True)
            return Library()

        def take(self, _count: int) -> list[dict[str, str]]:
            return [{"body": "one"}, {"body": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", Library)
    text = read_text("own=hf:owner/set,config=small,split=test,field=body")
    assert text.documents == ("one", "two")
    with pytest.raises(TokenAdaptError, match="row 1, has no text in the field 'text'"):
        read_text("own=hf:owner/set,config=small,split=test")


def test_a_missing_datasets_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TokenAdaptError, match=r"pip install 'mergekit-tokenadapt\[datasets\]'"):
        read_text("own=hf:owner/set")


def test_the_sources_file_names_every_text() -> None:
    from mergekit_tokenadapt.texts.builtin import FOLDER

    words = (FOLDER / "SOURCES.md").read_text()
    files = [f for f in FOLDER.iterdir() if f.suffix in (".txt", ".json")]
    assert files
    assert all(file.name in words for file in files)
    assert json.loads((FOLDER / "hard.json").read_text())
