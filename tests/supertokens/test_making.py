"""A whole folder, trained or extended."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from learning_texts import QUIET, new_ids
from tokenizers_zoo import added, write_tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.chunks import train_chunks
from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.making import extend_folder, train_folder
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.supertokens.options import TrainOptions
from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import Crossing, Rules
from mergekit_tokenadapt.supertokens.superwords import train_superwords
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind


def test_same_text_same_tokenizer(trained, corpus, text_file, tmp_path):
    again = train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])
    assert again == trained
    for algorithm in ("superwords", "chunks"):
        options = TrainOptions(vocab_size=600, algorithm=algorithm, limits=QUIET, seed=3)
        for name in ("one", "two"):
            train_folder(tmp_path / algorithm / name, corpus, options, None)
        one, two = (sorted((tmp_path / algorithm / name).iterdir()) for name in ("one", "two"))
        assert [f.name for f in one] == ["supertokens.json", "tokenizer.json", "tokenizer_config.json"]
        assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]


def test_wrong_sizes_and_no_text(corpus, tmp_path):
    for train in (train_superwords, train_chunks):
        with pytest.raises(TokenAdaptError, match="256 bytes and 2 special or added tokens need 258"):
            train(corpus, 257, rules=Rules(), limits=QUIET, special_tokens=["<a>", "<b>"])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TokenAdaptError, match="there is no text"):
        train_superwords(Corpus([str(tmp_path)]), 500, rules=Rules(), limits=QUIET)
    with pytest.raises(TokenAdaptError, match="algorithm: takes 'superwords' or 'chunks', not 'x'"):
        TrainOptions(vocab_size=500, algorithm="x")


@pytest.mark.parametrize("algorithm", ["superwords", "chunks"])
def test_a_size_that_the_text_does_not_support_is_stated(algorithm, tmp_path, caplog):
    file = tmp_path / "small.txt"
    file.write_text("the end of the river is the end of the river\n" * 3)
    options = TrainOptions(vocab_size=5000, algorithm=algorithm, limits=QUIET)
    number = train_folder(tmp_path / "out", Corpus([str(file)]), options, None)
    assert 256 < number < 400
    assert f"{number} tokens could be learned from the text, not 5,000" in caplog.text
    assert load_tokenizer(str(tmp_path / "out")).vocabulary.num_ids == number


@pytest.fixture
def with_added(zoo, tmp_path):
    """A byte-level tokenizer with added tokens of several kinds, as `save_pretrained` of transformers 4 wrote it."""
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    first = zoo["byte-level"].vocabulary.num_ids
    new = [("<fim>", {"lstrip": True}), ("river", {"single_word": True}), ("caf\u00e9", {}), ("\n\n\n", {})]
    definition["added_tokens"] += [{**added(s, first + n, special=False), **flags} for n, (s, flags) in enumerate(new)]
    decoder = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in definition["added_tokens"]}
    config = {**zoo["byte-level"].config, "added_tokens_decoder": decoder}
    return load_tokenizer(str(write_tokenizer(tmp_path / "like", definition, config)))


@pytest.mark.parametrize("algorithm", ["superwords", "chunks"])
def test_added_tokens_of_another_tokenizer_are_kept_and_its_ids_are_not(
    with_added, corpus, tmp_path, caplog, algorithm
):
    options = TrainOptions(vocab_size=700, algorithm=algorithm, limits=QUIET, special_tokens=("<fim>", "<end>"))
    assert train_folder(tmp_path / "out", corpus, options, with_added) == 700
    before, made = with_added.vocabulary, load_tokenizer(str(tmp_path / "out"))
    kinds = {t.spelling: t.kind for t in before if t.kind in (TokenKind.SPECIAL, TokenKind.ADDED)}
    assert kinds.pop("\n\n\n") is kinds["<fim>"] is TokenKind.ADDED
    expected = {**kinds, "<fim>": TokenKind.SPECIAL, "<end>": TokenKind.SPECIAL}
    found = {t.spelling: t for t in made.vocabulary if t.kind in (TokenKind.SPECIAL, TokenKind.ADDED)}
    assert {spelling: token.kind for spelling, token in found.items()} == expected
    assert [t.id for t in made.vocabulary] == list(range(700))
    assert "goes without 1 of the added tokens of" in caplog.text
    entries = {e["content"]: e for e in json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]}
    assert entries["river"] == {**added("river", found["river"].id, special=False), "single_word": True}
    assert "added_tokens_decoder" not in made.config
    assert len(auto_tokenizer(tmp_path / "out")) == 700
    assert new_ids(made.definition, "a caf\u00e9 river")[-1] == found["river"].id


WHITE = [
    " ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\f",
    "\v",
    "\t",
    "\xa0",
    "\x85",
    "\u2028",
    "\u2029",
    "\u3000",
    "\ufeff",
    "\x1c",
]


@given(
    gaps=st.lists(st.lists(st.sampled_from(WHITE), min_size=1, max_size=5).map("".join), min_size=1, max_size=3),
    crossing=st.sampled_from([(), ("lines",), ("lines", "digits", "sentences", "scripts")]),
    algorithm=st.sampled_from(["superwords", "superwords", "chunks"]),
)
@settings(max_examples=25)
@example(gaps=["\n \n"], crossing=(), algorithm="superwords")
@example(gaps=["\n\f\n"], crossing=(), algorithm="superwords")
@example(gaps=["\r\n\t \r\n  \n"], crossing=("lines",), algorithm="superwords")
def test_no_white_space_stops_training(tmp_path_factory, gaps, crossing, algorithm):
    """White space of which a merge makes a part that the pre-tokenizer splits: that merge goes, all else stays."""
    folder, rng = tmp_path_factory.mktemp("white"), random.Random(0)
    words = ["the", "river", "of", "mill", "and", "stone", "was", "bread", "in", "a", "sea", "walked"]
    lines = [" ".join(rng.choices(words, k=4)) + rng.choice(gaps) for _ in range(60)]
    (folder / "text.txt").write_bytes("".join(lines).encode())
    rules = Rules(crossing=frozenset(map(Crossing, crossing)))
    options = TrainOptions(vocab_size=700, algorithm=algorithm, rules=rules, limits=QUIET)
    number = train_folder(folder / "out", Corpus([str(folder)]), options, None)
    made = load_tokenizer(str(folder / "out"))
    assert unreachable(made.definition, made.vocabulary) == []
    assert [t.id for t in made.vocabulary] == list(range(number))
    known = {t.spelling for t in made.vocabulary}
    assert all({x, y, x + y} <= known for x, y in merges_of(made.definition))
    assert algorithm == "chunks" or any(" river" in (t.text or "") for t in made.vocabulary)


def test_dropped_tokens_are_counted_and_others_take_their_place(tmp_path, caplog):
    words = [f"{a}{b}" for a in ("mil", "ston", "riv", "wal", "bre") for b in ("ler", "es", "er", "king", "ad")]
    rng = random.Random(0)
    (tmp_path / "text.txt").write_text("".join(" ".join(rng.choices(words, k=6)) + "\n \n" for _ in range(300)))
    number = train_folder(
        tmp_path / "out", Corpus([str(tmp_path)]), TrainOptions(vocab_size=450, word_share=0.7, limits=QUIET), None
    )
    assert number == load_tokenizer(str(tmp_path / "out")).vocabulary.num_ids == 450
    assert (
        r"2 of the learned tokens were dropped, among them '\n ', '\n \n': the tokenizer would never produce"
        in caplog.text
    )


@pytest.mark.parametrize("algorithm", ["superwords", "chunks", "extend"])
def test_text_that_cannot_be_read_is_counted_and_never_learned(algorithm, zoo, tmp_path, caplog):
    text = "Der M\xfcller geht \xfcber die Br\xfccke.\n" * 40
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(text.encode("latin-1"))
    (tmp_path / "texts" / "b.txt").write_text("The mark \ufffd\ufffd stands for \ufffd.\n" * 40)
    corpus, out = Corpus([str(tmp_path / "texts")]), tmp_path / "out"
    if algorithm == "extend":
        extend_folder(out, zoo["byte-level"], corpus, 60, Rules(), QUIET, drop=False)
    else:
        train_folder(out, corpus, TrainOptions(vocab_size=420, algorithm=algorithm, limits=QUIET), None)
    assert not [t for t in load_tokenizer(str(out)).vocabulary if "\ufffd".encode() in t.bytes]
    assert f"{tmp_path}/texts/a.txt is not UTF-8: {3 * 40} of its bytes could not be read" in caplog.text
    assert "b.txt" not in caplog.text
    written = json.loads((out / "supertokens.json").read_text())
    assert written["text"]["not_utf8"] == {f"{tmp_path}/texts/a.txt": 120}


def test_extending_by_nothing_is_the_identity(zoo, corpus, tmp_path):
    for family in ("byte-level", "gemma-style"):
        base = zoo[family]
        out = tmp_path / family
        extension = extend_folder(out, base, corpus, 0, Rules(), QUIET, drop=False)
        assert extension.added == ()
        written = load_tokenizer(str(out))
        assert written.vocabulary == base.vocabulary
        for name in BUILTIN:
            for text in builtin_text(name).documents[:3]:
                assert new_ids(written.definition, text) == new_ids(base.definition, text)
    with pytest.raises(TokenAdaptError, match="give 0 or more"):
        extend(zoo["byte-level"], corpus, -1, Rules(), QUIET)
