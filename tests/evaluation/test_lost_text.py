"""A tokenizer that throws a part of the text away has less to predict: it is marked, and never the best."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from mergekit_tokenadapt.evaluation.lost_text import LostText, lost_text
from mergekit_tokenadapt.texts import builtin_text
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer

Run = Callable[..., Result]

NORMALIZERS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "lower case": (normalizers.Lowercase(), "The Mill, the mill.", ("capital letters",)),
    "NFKC": (normalizers.NFKC(), "ﬁve ½ Ｍills", ("compatibility forms",)),
    "accents": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "Müller, été", ("accents",)),
    "BERT": (
        normalizers.BertNormalizer(lowercase=True),
        "Der Müller\tgeht",
        ("capital letters", "accents", "white space"),
    ),
    "left out": (normalizers.Replace("q", ""), "the quick mill", ("other characters",)),
    "white space": (normalizers.Replace(" ", ""), "the mill", ("white space",)),
    "nothing": (normalizers.NFC(), "Mu\u0308ller und Müller", ()),
    "the ends": (normalizers.Strip(), " the mill\n", ()),
}


def tokenizer_with(normalizer: Any, english: Tokenizer, folder: Path) -> Path:
    changed = Tokenizer.from_str(english.to_str())
    changed.normalizer = normalizer
    return tiny_models.write_tokenizer(changed, folder)


def lost(tokenizer: TokenizerFiles, *texts: str) -> LostText | None:
    encodings = tokenizer.fast_tokenizer().encode_batch(list(texts), add_special_tokens=False)
    return lost_text(tokenizer, texts, [e.ids for e in encodings])


@pytest.mark.parametrize("name", NORMALIZERS)
def test_what_a_normalizer_throws_away(name: str, english: Tokenizer, tmp_path: Path) -> None:
    normalizer, text, expected = NORMALIZERS[name]
    found = lost(load_tokenizer(str(tokenizer_with(normalizer, english, tmp_path))), "mills", text)
    assert found == (LostText(1, 2, 0, expected) if expected else None)


def test_unknown_characters(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "mill": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    files = load_tokenizer(str(tiny_models.write_tokenizer(tokenizer, tmp_path)))
    assert lost(files, "the mill") is None
    assert lost(files, "the mill", "the river mill, the") == LostText(1, 2, 2, ("unknown characters",))


@pytest.fixture(scope="module")
def byte_level(english: Tokenizer, root: Path) -> TokenizerFiles:
    return load_tokenizer(str(tiny_models.write_tokenizer(english, root / "byte-level")))


@given(st.text(max_size=30))
def test_byte_level_loses_nothing(byte_level: TokenizerFiles, text: str) -> None:
    assert lost(byte_level, text) is None


def test_compare_marks_it_and_leaves_it_out_of_the_best(
    run: Run, base: Path, english: Tokenizer, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Of the very same model, the one that reads lower case needs fewer bits per byte, and is not the best."""
    lower = copy_of(base)
    tokenizer_with(normalizers.Lowercase(), english, lower)
    (tmp_path / "shout.txt").write_text("THE RIVER RUNS PAST THE OLD MILL. " * 3)
    page = tmp_path / "page.html"
    texts = ("--text", f"shout={tmp_path / 'shout.txt'}", "--builtin", "arithmetic", "--max-bytes", 300)
    asked = ("compare", base, lower, *texts, "--resamples", 100, "--html", page)
    report = json.loads(run(*asked, "--json").stdout)
    sound, lossy = report["models"]
    assert lossy["all"]["bits_per_byte"] < sound["all"]["bits_per_byte"]
    assert report["best"] == {"all": str(base), "shout": str(base), "arithmetic": report["best"]["arithmetic"]}
    assert sound["lost_text"] is None
    assert not sound["all"]["loses_text"]
    assert lossy["all"]["loses_text"]
    assert lossy["domains"]["shout"]["lost_text"] == {
        "documents": 1, "of": 1, "unknown_tokens": 0, "what": ["capital letters"],
    }  # fmt: skip
    said = "loses capital letters of shout (1 of 1 documents do not decode to themselves)"
    assert said in lossy["lost_text"]
    shown = run(*asked).stdout
    for text in (" ".join(shown.split()), page.read_text()):
        assert said in text
        assert f"{lossy['all']['bits_per_byte']:.3f}†" in text
        assert f"{sound['all']['bits_per_byte']:.3f}†" not in text
        assert "Fewest bits per byte of all texts: base." in text


def test_tokenizer_marks_it(run: Run, english: Tokenizer, tmp_path: Path) -> None:
    folders = [
        tokenizer_with(normalizers.Lowercase(), english, tmp_path / "lower"),
        tiny_models.write_tokenizer(english, tmp_path / "sound"),
    ]
    asked = ("tokenizer", *folders, "--builtin", "prose")
    report = json.loads(run(*asked, "--json").stdout)["tokenizers"]
    number = len(builtin_text("prose").documents)
    assert report[0]["lost_text"].startswith(f"loses capital letters of prose ({number} of {number} documents")
    assert (report[0]["texts"]["prose"]["loses_text"], report[1]["texts"]["prose"]["loses_text"]) == (True, False)
    shown = " ".join(run(*asked).stdout.split())
    assert "† lower loses capital letters of prose" in shown
    assert (
        f"{report[0]['texts']['prose']['bytes_per_token']:.2f}† {report[1]['texts']['prose']['bytes_per_token']:.2f} "
        in shown
    )
