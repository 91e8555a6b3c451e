"""Tokenizers without a tokenizer.json: Mistral's tekken.json, a list of tiktoken's ranks."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers_zoo import tiny_model_folder
from transformers import AutoTokenizer
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.conversion import TEKKEN_SPECIALS, TIKTOKENS, Tiktoken
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind

PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEXT = "the river of 42 stones: größe   and more\n"


@pytest.fixture(scope="module")
def ranks(zoo: Mapping[str, TokenizerFiles]) -> list[bytes]:
    """256 bytes, then what the merges of the byte-level tokenizer make, in their order."""
    vocabulary = zoo["byte-level"].vocabulary
    by_spelling = vocabulary.by_spelling
    made = [by_spelling[x + y].bytes for x, y in zoo["byte-level"].definition["model"]["merges"]]
    return [*(bytes([byte]) for byte in range(256)), *dict.fromkeys(made)]


def tekken(ranks: list[bytes], **config: Any) -> dict[str, Any]:
    entries = [{"rank": n, "token_bytes": base64.b64encode(r).decode(), "token_str": None} for n, r in enumerate(ranks)]
    return {"config": {"pattern": PATTERN, "num_vocab_tokens": len(ranks), "version": "v3", **config}, "vocab": entries}


def write(folder: Path, file: str, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(content, encoding="utf-8")
    return folder


def assert_speaks(files: TokenizerFiles) -> None:
    """Every byte has a token, and text comes back."""
    assert sorted(files.vocabulary.single_bytes) == list(range(256))
    ids = files.fast_tokenizer().encode(TEXT, add_special_tokens=False).ids
    assert b"".join(files.vocabulary.by_id[i].bytes for i in ids).decode() == TEXT
    assert len(ids) < len(TEXT)


@pytest.mark.parametrize("names_its_specials", [True, False], ids=["new", "old"])
def test_a_tekken_json_alone(tmp_path: Path, ranks: list[bytes], names_its_specials: bool) -> None:
    specials = ["<unk>", "<s>", "</s>", "<pad>", "[INST]"] if names_its_specials else TEKKEN_SPECIALS
    content = tekken(ranks, default_num_special_tokens=len(specials) + 3, default_vocab_size=len(ranks) + 20)
    if names_its_specials:
        content["special_tokens"] = [{"rank": n, "token_str": s, "is_control": True} for n, s in enumerate(specials)]
    folder = write(tmp_path / "t", "tekken.json", json.dumps(content))
    files = load_tokenizer(str(folder))
    vocabulary = files.vocabulary
    assert [t.spelling for t in vocabulary][: len(specials) + 1] == [*specials, f"<SPECIAL_{len(specials)}>"]
    assert vocabulary.by_id[len(specials) + 3].bytes == b"\x00"
    assert vocabulary.num_ids == min(len(ranks) + 20, len(ranks) + len(specials) + 3)
    assert (vocabulary.roles["bos"], vocabulary.roles["eos"]) == (1, 2)
    assert_speaks(files)
    assert sorted(f.name for f in folder.iterdir()) == ["tekken.json"]


def test_a_model_with_a_tekken_json_is_transplanted(tmp_path: Path, ranks: list[bytes], unigram_folder: Path) -> None:
    folder = write(tmp_path / "t", "tekken.json", json.dumps(tekken(ranks)))
    write(folder, "config.json", '{"model_type": "mistral"}')
    base = tiny_model_folder(unigram_folder, tmp_path / "base")
    out = transplant(base, folder, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).get_vocab() == load_tokenizer(str(folder)).fast_tokenizer().get_vocab()
    assert len(tensors_of(out)[EMBEDDINGS]) == len(ranks) + len(TEKKEN_SPECIALS)
    assert not [f.name for f in out.iterdir() if f.name in ("tokenizer.model", "tekken.json")]


@pytest.mark.parametrize("content", ["{}", "[]", '{"config": {}, "vocab": [{"token_bytes": "?"}]}'])
def test_a_tekken_json_that_is_none(tmp_path: Path, content: str) -> None:
    with pytest.raises(TokenAdaptError, match=r"cannot be read as Mistral's tekken\.json") as caught:
        load_tokenizer(str(write(tmp_path / "t", "tekken.json", content)))
    assert "\n" not in str(caught.value)


def tiktoken(ranks: list[bytes]) -> str:
    return "\n".join(f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks))


def test_a_tiktoken_file_whose_rest_is_known(
    tmp_path: Path, ranks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = len(ranks) + 7  # o200k_base leaves ids out, too
    rest = Tiktoken(PATTERN, len(ranks), {"<|end|>": end}, {"eos": "<|end|>"}, normalizer="NFC")
    monkeypatch.setitem(TIKTOKENS, "known", rest)
    files = load_tokenizer(str(write(tmp_path / "t", "known.tiktoken", tiktoken(ranks))))
    assert [files.vocabulary.by_id[n].bytes for n in range(len(ranks))] == ranks
    assert (files.vocabulary.roles, files.vocabulary.by_id[end].kind) == ({"eos": end}, TokenKind.SPECIAL)
    assert_speaks(files)
    assert files.definition["normalizer"]["type"] == "NFC"


def test_patterns_are_regular_expressions_of_the_library() -> None:
    from tokenizers import Regex

    for name, known in TIKTOKENS.items():
        Regex(known.pattern)
        assert known.roles.keys() == {r for r, s in known.roles.items() if s in known.specials}, name


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "mine.tiktoken",
            None,
            "neither the pre-tokenizer's pattern nor the special tokens, which",
        ),
        ("qwen.tiktoken", None, "neither the pre-tokenizer's pattern"),
        ("qwen.tiktoken", "not a list", "is no list of tokens and ranks"),
    ],
    ids=["unknown", "another of that name", "no list"],
)
def test_a_tiktoken_file_that_is_not_enough(
    tmp_path: Path, ranks: list[bytes], file: str, content: str | None, says: str
) -> None:
    with pytest.raises(TokenAdaptError, match=says):
        load_tokenizer(str(write(tmp_path / "t", file, content or tiktoken(ranks))))
