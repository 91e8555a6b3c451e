"""Files of word vectors: their formats, the vectors of tokens made from them, and what is wrong with a file."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import make_transfer, with_method
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.auxiliary import find_auxiliary
from mergekit_tokenadapt.auxiliary.base import OwnedToken, path_of_auxiliary
from mergekit_tokenadapt.auxiliary.word_vectors import open_word_vectors, token_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.fasttext import FastTextModel, hashed, ngrams
from mergekit_tokenadapt.auxiliary.word_vectors.reading import WordVectors
from mergekit_tokenadapt.auxiliary.word_vectors.space import WordVectorSpace
from mergekit_tokenadapt.auxiliary.word_vectors.word2vec import BinaryVectors, TextVectors
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter

CPU = torch.device("cpu")
WORDS = ["the", "river", "mill", "bread", "Brücke", "sea", "stone", "река", "walking", "小河"]
DIMENSIONS = 5


def vectors_of(words: Sequence[str], dimensions: int = DIMENSIONS) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(words), dimensions)).astype(np.float32)


def as_text(words: Sequence[str], vectors: np.ndarray, *, header: bool = True) -> str:
    lines = [f"{len(words)} {vectors.shape[1]}"] * header
    return "\n".join([*lines, *(f"{w} {' '.join(map(repr, v.tolist()))}" for w, v in zip(words, vectors, strict=True))])


def as_binary(words: Sequence[str], vectors: np.ndarray) -> bytes:
    start = f"{len(words)} {vectors.shape[1]}\n".encode()
    return start + b"".join(w.encode() + b" " + v.tobytes() + b"\n" for w, v in zip(words, vectors, strict=True))


def as_fasttext(
    words: Sequence[str], vectors: np.ndarray, buckets: np.ndarray, *, lengths: tuple[int, int] = (3, 4), kept: int = -1
) -> bytes:
    """A fastText model; the words occur 100, 99, 98, ... times."""
    content = struct.pack("<2i", 793712314, 12)
    content += struct.pack("<12id", vectors.shape[1], 5, 5, 1, 5, 1, 2, 1, len(buckets), *lengths, 100, 1e-4)
    content += struct.pack("<3i2q", len(words), len(words), 0, 1000, kept)
    for n, word in enumerate(words):
        content += word.encode() + b"\0" + struct.pack("<qb", 100 - n, 0)
    matrix = np.concatenate([vectors, buckets])
    return content + struct.pack("<?2q", False, *matrix.shape) + matrix.tobytes()


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    (tmp_path / "vectors").mkdir()
    file = tmp_path / "vectors" / "words.vec"
    file.write_text(as_text(WORDS, vectors_of(WORDS)), encoding="utf-8")
    return file


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    buckets = np.random.default_rng(1).normal(size=(50, DIMENSIONS)).astype(np.float32)
    file = tmp_path / "model.bin"
    file.write_bytes(as_fasttext(WORDS, vectors_of(WORDS), buckets))
    return file


def read(words: WordVectors, most: int | None = None) -> tuple[list[str | None], np.ndarray, list[float]]:
    batches = list(words.batches(most))
    return (
        [word for batch in batches for word in batch.words],
        np.concatenate([batch.vectors_BA for batch in batches]),
        [frequency for batch in batches for frequency in batch.frequencies.tolist()],
    )


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["words.vec", "words.txt", "words", "words.vec.gz"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("batch", [3, 4096])
def test_text_is_read(name: str, header: bool, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergekit_tokenadapt.auxiliary.word_vectors.word2vec.BATCH", batch)
    content, file = as_text(WORDS, vectors_of(WORDS), header=header).encode(), tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    words = open_word_vectors(str(file))
    assert isinstance(words, TextVectors)
    found, vectors, frequencies = read(words)
    assert found == WORDS
    np.testing.assert_array_equal(vectors, vectors_of(WORDS))
    assert frequencies == pytest.approx([1 / n for n in range(1, 11)])
    assert read(words, most=4)[0] == WORDS[:4]


def test_a_word_may_hold_spaces_and_lines_may_end_with_one(tmp_path: Path) -> None:
    file = tmp_path / "a.vec"
    file.write_text("2 3\n. . . 1 2 3 \r\n\nnew york 4 5 6 \r\n")
    found, vectors, _ = read(open_word_vectors(str(file)))
    assert found == [". . .", "new york"]
    assert vectors.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("name", ["words.bin", "words.model", "words.bin.gz"])
@pytest.mark.parametrize("batch", [3, 4096])
def test_binary_is_read(name: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergekit_tokenadapt.auxiliary.word_vectors.word2vec.BATCH", batch)
    content, file = as_binary(WORDS, vectors_of(WORDS)), tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    words = open_word_vectors(str(file))
    assert isinstance(words, BinaryVectors)
    found, vectors, frequencies = read(words)
    assert found == WORDS
    np.testing.assert_array_equal(vectors, vectors_of(WORDS))
    assert frequencies == pytest.approx([1 / n for n in range(1, 11)])
    assert read(words, most=4)[0] == WORDS[:4]


def test_a_cut_character_in_a_binary_file_is_a_word_without_text(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(as_binary(["the", "x"], vectors_of("ab")).replace(b"x ", b"\xe5 "))
    assert read(open_word_vectors(str(file)))[0] == ["the", None]


def plain_hash(ngram: str) -> int:
    value = np.uint32(2166136261)
    with np.errstate(over="ignore"):
        for byte in np.frombuffer(ngram.encode(), dtype=np.int8):
            value = (value ^ np.uint32(byte.astype(np.int32).view(np.uint32))) * np.uint32(16777619)
    return int(value)


def plain_ngrams(word: str, shortest: int, longest: int) -> list[str]:
    bounded = f"<{word}>"
    every = [bounded[a:b] for a in range(len(bounded)) for b in range(a + 1, len(bounded) + 1)]
    return [g for g in every if shortest <= len(g) <= longest and g not in ("<", ">")]


@given(st.text("aß河<🙂", min_size=1, max_size=7), st.integers(0, 4), st.integers(0, 6))
def test_ngrams_and_their_hashes_are_those_of_fasttext(word: str, shortest: int, longest: int) -> None:
    if "<" in word and shortest < 2:  # fastText leaves out the brackets by their places
        return
    found = list(ngrams(word.encode(), shortest, longest))
    expected = plain_ngrams(word, shortest, longest)
    assert sorted(found) == sorted(g.encode() for g in expected)
    assert [hashed(g) for g in found] == [plain_hash(g.decode()) for g in found]


def test_a_fasttext_model_gives_the_mean_of_a_word_and_its_ngrams(model_file: Path) -> None:
    model = open_word_vectors(str(model_file))
    assert isinstance(model, FastTextModel)
    rows = np.concatenate([vectors_of(WORDS), np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)])
    texts = ["river", "rivers", "Brücke", "小", "xyz", ""]
    for text, vector in zip(texts, model.of(texts), strict=True):
        used = [WORDS.index(text)] if text in WORDS else []
        used += [len(WORDS) + plain_hash(g) % 50 for g in plain_ngrams(text, 3, 4)]
        expected = np.mean([rows[n] for n in used], axis=0) if used else np.zeros(5)
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)
    words, vectors, frequencies = read(model)
    assert words == WORDS
    np.testing.assert_array_equal(vectors, model.of(WORDS))
    assert frequencies == [100 - n for n in range(10)]
    assert model.of_words(["river", "bread", "no"], most=3).keys() == {"river"}


def test_gensim_reads_the_same_vectors_from_these_formats(tmp_path: Path) -> None:
    """gensim also writes them: what another implementation understands is not only our idea of the format."""
    gensim_models = pytest.importorskip("gensim.models")
    fasttext = pytest.importorskip("gensim.models.fasttext")
    sentences = [sentence.split() for sentence in ("the river flows by the mill", "Brücke über die река 小河 the sea")]
    model = gensim_models.FastText(sentences, vector_size=8, min_count=1, bucket=100, workers=1, epochs=2)
    fasttext.save_facebook_model(model, str(tmp_path / "model.bin"))
    model.wv.save_word2vec_format(str(tmp_path / "model.vec"))
    model.wv.save_word2vec_format(str(tmp_path / "binary.bin"), binary=True)
    texts = ["the", "rivers", "Brücken", "小河", "unknown"]
    opened = open_word_vectors(str(tmp_path / "model.bin"))
    assert isinstance(opened, FastTextModel)
    np.testing.assert_allclose(opened.of(texts), [model.wv[text] for text in texts], rtol=1e-4, atol=1e-6)
    for name in ("model.vec", "binary.bin"):
        words, vectors, _ = read(open_word_vectors(str(tmp_path / name)))
        assert words == model.wv.index_to_key
        np.testing.assert_allclose(vectors, model.wv.vectors, rtol=1e-4, atol=1e-6)


# --- vectors of tokens ---------------------------------------------------------------------------


def plain_token_vectors(
    words: Sequence[str], vectors: np.ndarray, frequencies: Sequence[float], tokenizer: TokenizerFiles
) -> dict[int, np.ndarray]:
    """WECHSEL's equation, token by token."""
    segmenter = Segmenter(tokenizer.definition, tokenizer.vocabulary)
    found: dict[int, list[tuple[float, np.ndarray]]] = {}
    for word, vector, frequency in zip(words, vectors, frequencies, strict=True):
        for form in (word, f" {word}"):
            for i in set(segmenter.segment([form.encode()]).ids.tolist()):
                found.setdefault(i, []).append((frequency, vector.astype(np.float64)))
    return {i: sum(f * v for f, v in pairs) / sum(f for f, _ in pairs) for i, pairs in found.items()}


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece-bpe", "wordpiece", "unigram", "gemma-style"])
@pytest.mark.parametrize("batch", [3, 4096])
def test_token_vectors_are_weighted_means_of_words(
    name: str, batch: int, zoo: Mapping[str, TokenizerFiles], text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergekit_tokenadapt.auxiliary.word_vectors.word2vec.BATCH", batch)
    tokenizer = zoo[name]
    tokens = [t for t in tokenizer.vocabulary if t.id % 7]
    segmenter = Segmenter(tokenizer.definition, tokenizer.vocabulary)
    made = token_vectors(open_word_vectors(str(text_file)), tokens, segmenter, quiet=True)
    expected = plain_token_vectors(WORDS, vectors_of(WORDS), [1 / n for n in range(1, 11)], tokenizer)
    assert sum(t.id in expected for t in tokens) > 10
    for token, vector in zip(tokens, made, strict=True):
        np.testing.assert_allclose(vector, expected.get(token.id, np.zeros(DIMENSIONS)), rtol=1e-4, atol=1e-6)


def test_a_model_without_ngrams_gives_means_weighted_by_its_counts(
    zoo: Mapping[str, TokenizerFiles], tmp_path: Path
) -> None:
    file, tokenizer = tmp_path / "model.bin", zoo["byte-level"]
    file.write_bytes(as_fasttext(WORDS, vectors_of(WORDS), np.zeros((0, DIMENSIONS), np.float32), lengths=(0, 0)))
    tokens = list(tokenizer.vocabulary)
    segmenter = Segmenter(tokenizer.definition, tokenizer.vocabulary)
    made = token_vectors(open_word_vectors(str(file)), tokens, segmenter, most=6, quiet=True)
    expected = plain_token_vectors(WORDS[:6], vectors_of(WORDS)[:6], [100 - n for n in range(6)], tokenizer)
    for token, vector in zip(tokens, made, strict=True):
        np.testing.assert_allclose(vector, expected.get(token.id, np.zeros(DIMENSIONS)), rtol=1e-4, atol=1e-6)


def test_a_model_with_ngrams_gives_the_vector_of_the_text(zoo: Mapping[str, TokenizerFiles], model_file: Path) -> None:
    tokenizer, model = zoo["byte-level"], open_word_vectors(str(model_file))
    assert isinstance(model, FastTextModel)
    tokens = list(tokenizer.vocabulary)
    made = token_vectors(model, tokens, Segmenter(tokenizer.definition, tokenizer.vocabulary), quiet=True)
    for token, vector in zip(tokens, made, strict=True):
        text = (token.text or "").strip()
        np.testing.assert_array_equal(vector, model.of([text])[0] if text else np.zeros(DIMENSIONS))
    parts = [n for n, token in enumerate(tokens) if token.text is None]
    assert parts
    assert not made[parts].any()


def test_each_vocabulary_has_its_own_segmentation(zoo: Mapping[str, TokenizerFiles], text_file: Path) -> None:
    one, other = zoo["byte-level"], zoo["wordpiece"]
    owned = [OwnedToken(owner, t) for owner in (one, other) for t in owner.vocabulary]
    made = find_auxiliary(str(text_file)).embed_tokens(owned, device=CPU, quiet=True)
    frequencies = [1 / n for n in range(1, 11)]
    expected = {id(o): plain_token_vectors(WORDS, vectors_of(WORDS), frequencies, o) for o in (one, other)}
    for each, vector in zip(owned, made, strict=True):
        known = expected[id(each.tokenizer)].get(each.token.id, np.zeros(DIMENSIONS))
        np.testing.assert_allclose(vector, known, rtol=1e-4, atol=1e-6)


def test_texts_alone_are_looked_up_as_words(text_file: Path) -> None:
    made = find_auxiliary(str(text_file)).embed([" river", "nothing", "小河"], device=CPU, quiet=True)
    np.testing.assert_array_equal(made, [vectors_of(WORDS)[1], np.zeros(5), vectors_of(WORDS)[9]])


@pytest.mark.parametrize("method", ["local", "global", "hybrid", "calibrated"])
def test_methods_use_it(method: str, zoo: Mapping[str, TokenizerFiles], text_file: Path) -> None:
    transfer = with_method(make_transfer(zoo["wordpiece"], zoo["byte-level"], WordVectorSpace(str(text_file))), method)
    made = transfer.make_plan().apply(torch.randn(zoo["wordpiece"].vocabulary.num_ids, 8)).rows
    assert made.isfinite().all()


def test_similarities_are_those_of_the_word_vectors(zoo: Mapping[str, TokenizerFiles], text_file: Path) -> None:
    transfer = make_transfer(zoo["wordpiece"], zoo["byte-level"], WordVectorSpace(str(text_file)))
    base, target = (
        plain_token_vectors(WORDS, vectors_of(WORDS), [1 / n for n in range(1, 11)], zoo[name])
        for name in ("wordpiece", "byte-level")
    )
    similarities, ids = transfer.neighbours(2)
    usable = {t.id for t in transfer.candidates} & base.keys()
    checked = 0
    for n, token in enumerate(transfer.new_tokens):
        if token.id not in target:
            assert similarities[n, 0] == -torch.inf
            continue
        new = target[token.id] / np.linalg.norm(target[token.id])
        best = max(float(new @ base[i] / np.linalg.norm(base[i])) for i in usable)
        assert float(similarities[n, 0]) == pytest.approx(best, abs=1e-5)
        assert int(ids[n, 0]) in usable
        checked += 1
    assert checked > 5


def test_a_model_gets_such_rows(tmp_path, text_file, byte_level_folder, wordpiece_folder, tiny_model_folder):
    base = tiny_model_folder(wordpiece_folder, tmp_path / "base")
    made = [
        tensors_of(transplant(base, byte_level_folder, tmp_path / f"out{n}", method="hybrid", auxiliary=name))
        for n, name in enumerate([str(text_file), f"wordvectors:{text_file}", f"wordvectors:{text_file},words=3"])
    ]
    assert torch.equal(made[0][EMBEDDINGS], made[1][EMBEDDINGS])
    assert not torch.equal(made[0][EMBEDDINGS], made[2][EMBEDDINGS])


# --- naming it, and what is wrong with a file ----------------------------------------------------


def test_the_output_may_not_replace_the_file(
    tmp_path, text_file, byte_level_folder, wordpiece_folder, tiny_model_folder
):
    base = tiny_model_folder(wordpiece_folder, tmp_path / "base")
    for name in (f"wordvectors:{text_file},words=3", str(text_file)):
        assert path_of_auxiliary(name) == str(text_file)
        command = [
            "transplant",
            str(base),
            str(byte_level_folder),
            str(text_file.parent),
            "--method",
            "hybrid",
            "--force",
        ]
        result = CliRunner().invoke(main, [*command, "--auxiliary", name])
        assert result.exit_code == 2
        assert "which is read" in result.output


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (None, "needs a file"),
        ("./missing.vec", "'./missing.vec' is no file"),
        ("FILE,words=0", "number of words to read"),
        ("FILE,words=-3", "number of words to read"),
        ("FILE,words=many", "number of words to read"),
        ("FILE,words=", "number of words to read"),
        ("FILE,words=²", "number of words to read"),
    ],
)
def test_a_wrong_argument_is_refused(argument: str | None, says: str, text_file: Path) -> None:
    name = "wordvectors" if argument is None else f"wordvectors:{argument.replace('FILE', str(text_file))}"
    with pytest.raises(TokenAdaptError, match=says):
        find_auxiliary(name)


TEXT = "2 3\nthe 1 2 3\nsea 4 5 6\n"
BINARY = as_binary(["the", "sea"], vectors_of("ab", 3))
MODEL = as_fasttext(["the", "sea"], vectors_of("ab", 3), np.ones((4, 3), np.float32))
BROKEN: list[tuple[str, bytes, str]] = [
    ("empty.vec", b"", "is empty"),
    ("blank.vec", b"\n \n", "is empty"),
    ("short.vec", TEXT.replace("4 5 6", "4 5").encode(), "line 3: 2 numbers after the word, not 3"),
    ("long.vec", TEXT.replace("4 5 6", "4 5 6 7").encode(), "line 3: 4 numbers after the word, not 3"),
    ("letters.vec", TEXT.replace("4 5 6", "4 five 6").encode(), "line 3: could not convert string to float: b?'five'"),
    ("nan.vec", TEXT.replace("4 5 6", "4 nan 6").encode(), "line 3: a number is infinite or NaN"),
    ("huge.vec", TEXT.replace("4 5 6", "4 1e99 6").encode(), "line 3: a number is infinite or NaN"),
    ("cut.vec", TEXT.replace("2 3", "7 3").encode(), "ends after 2 words, but its first line says 7"),
    ("latin.vec", TEXT.replace("sea", "fluß").encode("latin-1"), "line 3: not UTF-8; convert the file"),
    ("wide.vec", TEXT.encode("utf-16"), "line 1: write the numbers of words and of dimensions"),
    ("prose.txt", b"hello\nthere\n", "line 1: write the numbers of words and of dimensions"),
    ("zero.vec", b"2 0\nthe\nsea\n", "0 dimensions are impossible"),
    ("many.vec", b"2 100000\nthe 1\n", "100,000 dimensions are impossible"),
    ("cut.vec.gz", gzip.compress(TEXT.encode())[:-12], "cannot be read"),
    ("not.vec.gz", TEXT.encode(), "cannot be read"),
    ("cut.bin", BINARY[:-4], "word 2 of 2: the file ends here"),
    ("cut-more.bin", BINARY[:22], "word 2 of 2: the file ends here or is damaged"),
    ("picture", b"\x89PNG\r\n\x1a\n\0\0", "not a file of word vectors"),
    ("nan.bin", BINARY[:-5] + b"\xff\xff\xff\x7f\n", "word 2: a number is infinite or NaN"),
    ("model.bin.gz", gzip.compress(MODEL), "unpack the model first"),
    ("cut-model.bin", MODEL[:-4], "damaged or incomplete"),
    ("cut-words.bin", MODEL[:110], "damaged or incomplete"),
    ("head.bin", MODEL[:20], "damaged or incomplete"),
    ("old.bin", MODEL[:4] + b"\x07\0\0\0" + MODEL[8:], "version 7 of fastText's format is unknown"),
    (
        "pruned.ftz",
        as_fasttext(["the"], vectors_of("a", 3), np.ones((4, 3), np.float32), kept=2),
        "quantized models .* cannot be read",
    ),
    ("nan-model.bin", MODEL[:-4] + b"\0\0\xc0\x7f", "a number is infinite or NaN"),
]


@pytest.mark.parametrize(("name", "content", "says"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_file_is_one_line(
    name: str, content: bytes, says: str, tmp_path: Path, zoo: Mapping[str, TokenizerFiles]
) -> None:
    file, tokenizer = tmp_path / name, zoo["byte-level"]
    file.write_bytes(content)
    with pytest.raises(TokenAdaptError, match=says) as caught:
        find_auxiliary(f"wordvectors:{file}").embed_tokens(
            [OwnedToken(tokenizer, t) for t in tokenizer.vocabulary], device=CPU, quiet=True
        )
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_broken_file_ends_a_command_with_exit_code_2(
    tmp_path, byte_level_folder, wordpiece_folder, tiny_model_folder
):
    base = tiny_model_folder(wordpiece_folder, tmp_path / "base")
    file = tmp_path / "short.vec"
    file.write_text("2 3\nthe 1 2 3\nsea 4 5\n")
    command = ["transplant", str(base), str(byte_level_folder), str(tmp_path / "out"), "--method", "hybrid"]
    result = CliRunner().invoke(main, [*command, "--auxiliary", str(file)])
    assert result.exit_code == 2, result.output
    assert "line 3: 2 numbers after the word, not 3" in result.output
    assert not (tmp_path / "out").exists()


def test_the_command_methods_lists_it() -> None:
    result = CliRunner().invoke(main, ["methods", "--json"])
    spaces = {space["name"]: space["summary"] for space in json.loads(result.output)["auxiliary"]}
    assert "wordvectors:FILE,words=N" in spaces["wordvectors"]
