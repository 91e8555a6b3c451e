"""Sources of text to learn from."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.texts import Corpus, split_text


def test_sources(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"one\r\ntwo\xff")
    (folder / "b.jsonl").write_text('{"body": "three"}\n\n{"body": "four \\ud800"}\n')
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".hidden").write_text("no")
    with gzip.open(folder / "c.txt.gz", "wt") as file:
        file.write("five")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "six"}\n')
    corpus = Corpus([f"{folder},field=body", str(tmp_path / "d.jsonl.gz")])
    assert list(corpus.pieces()) == ["one\r\ntwo\ufffd", "six", "three", "four ?", "five"]
    assert (corpus.num_documents, corpus.num_skipped) == (5, 1)
    assert corpus.num_bytes == len("one\r\ntwo\ufffdsixthreefour ?five".encode())


def test_sources_that_are_wrong(tmp_path):
    with pytest.raises(TokenAdaptError, match="no file or folder '/no/such'"):
        Corpus(["/no/such"])
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a"}\n{"body": 1}\n')
    with pytest.raises(TokenAdaptError, match=r"x.jsonl, line 2, has no text in the field 'text' \(it has body\)"):
        list(Corpus([str(file)]).pieces())
    file.write_text("{")
    with pytest.raises(TokenAdaptError, match=r"x.jsonl, line 1, is not valid JSON"):
        list(Corpus([str(file)]).pieces())
    for damaged in (b"not compressed", gzip.compress(b"some words " * 99)[:-9], b"\x1f\x8b\x08" + b"\xff" * 40):
        (tmp_path / "x.gz").write_bytes(damaged)
        with pytest.raises(TokenAdaptError, match="cannot be read"):
            list(Corpus([str(tmp_path / "x.gz")]).pieces())


@given(st.text(max_size=200), st.integers(1, 20))
def test_pieces_make_the_text_again(text, size):
    assert "".join(split_text(text, size)) == text
    assert all(len(piece) <= 2 * size for piece in split_text(text, size))


def test_limits_on_text(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text((name * 99 + "\n") * 5000)
    corpus = Corpus([str(tmp_path / "a"), str(tmp_path / "b")], max_bytes=200_000)
    pieces = list(corpus.pieces())
    assert 200_000 <= corpus.num_bytes < 400_000
    assert {p[0] for p in pieces} == {"a", "b"}  # sources take turns
    assert corpus.size == 200_000
    assert len(list(corpus.pieces(100_000))) < len(pieces)


def test_datasets_are_streamed(monkeypatch):
    datasets = pytest.importorskip("datasets")
    read = []

    def load_dataset(name, config, *, split, streaming):
        assert (name, config, split, streaming) == ("some/texts", "en", "validation", True)
        for number in range(10**9):
            read.append(number)
            yield {"body": f"document {number}\n"}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = Corpus(["hf:some/texts,config=en,split=validation,field=body"], max_bytes=100)
    assert corpus.size == 100
    assert "".join(corpus.pieces()).startswith("document 0\ndocument 1\n")
    assert len(read) < 20
    with pytest.raises(TokenAdaptError, match=r"row 1, has no text in the field 'text' \(it has body\)"):
        list(Corpus(["hf:some/texts,config=en,split=validation"]).pieces())
