"""Tokens of another tokenizer, appended: old tokens and the text that uses no new token stay as they were."""

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers_zoo import CORPUS, added, byte_unigram, clip, permutation, renumbered, shuffled_entries

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.vocabulary_extension import candidates as candidates_module
from mergekit_tokenadapt.vocabulary_extension.candidates import CHANGED, NUMBERS, SPLIT, UNMADE, Candidate, LeftOut
from mergekit_tokenadapt.vocabulary_extension.extend import extended
from mergekit_tokenadapt.vocabulary_extension.merges import NewMerges, new_merges

PAIRS = [
    ("byte-level", "gemma-style"),
    ("byte-level", "unigram"),
    ("sentencepiece-bpe", "byte-level"),
    ("sentencepiece-bpe", "unigram"),
    ("gemma-style", "byte-level"),
    ("unigram", "byte-level"),
    ("unigram", "gemma-style"),
]
TEXT = st.text(max_size=40) | st.lists(st.sampled_from([w for line in CORPUS for w in (line, *line.split(" "))])).map(
    " ".join
)


@pytest.fixture(scope="module", params=PAIRS, ids="<-".join)
def grown(request, zoo):
    """A base, a source, and the base with all tokens of the source that it can get. Not to be changed."""
    base, source = (zoo[name] for name in request.param)
    return base, source, extended(base, source, None, None)


def ids_of(definition, text):
    return Tokenizer.from_str(json.dumps(definition)).encode(text, add_special_tokens=False).ids


@given(text=TEXT)
def test_text_without_new_tokens_is_segmented_as_before(grown, text):
    base, _, found = grown
    ids = ids_of(found.definition, text)
    if max(ids, default=0) < base.vocabulary.num_ids:
        assert ids == ids_of(base.definition, text)


@given(text=TEXT)
def test_new_merges_only_join_what_the_base_makes(grown, text):
    """Undoing the new merges of BPE gives the tokens of the base; a new character stood in bytes or as unknown."""
    base, _, found = grown
    if base.definition["model"]["type"] != "BPE":
        return
    vocabulary = Vocabulary.from_definition(found.definition, base.role_tokens)
    halves = {x + y: (x, y) for x, y in merges_of(found.definition) if x + y not in base.vocabulary.by_spelling}

    def undone(spelling):
        return [part for half in halves[spelling] for part in undone(half)] if spelling in halves else [spelling]

    parts = [p for i in ids_of(found.definition, text) for p in undone(vocabulary.by_id[i].spelling)]
    content = [vocabulary.by_spelling[p] for p in parts]
    old = [base.vocabulary.by_id[i] for i in ids_of(base.definition, text)]
    if not any(t.spelling == "<unk>" for t in (*old, *content)):
        as_bytes = [[b for t in ts for b in ([t.id] if t.bytes.isascii() else t.bytes)] for ts in (content, old)]
        assert as_bytes[0] == as_bytes[1]
    if all(p in base.vocabulary.by_spelling for p in parts):
        assert [t.id for t in content] == [t.id for t in old]


def test_old_tokens_stay_and_each_appended_token_can_be_produced(grown):
    base, source, found = grown
    vocabulary = Vocabulary.from_definition(found.definition, base.role_tokens)
    assert vocabulary.tokens[: len(base.vocabulary)] == base.vocabulary.tokens
    new = [t.id for t in vocabulary][len(base.vocabulary) :]
    assert new == sorted([*found.appended, *found.helpers])
    assert new == list(range(base.vocabulary.num_ids, base.vocabulary.num_ids + len(new)))
    assert len(found.appended) >= 20
    known = {t.bytes for t in source.vocabulary if t.kind is TokenKind.ORDINARY}
    contents = [vocabulary.by_id[i].bytes for i in found.appended]
    assert known.issuperset(contents)
    pieces = Segmenter(found.definition, vocabulary).segment(contents)
    assert [pieces[n].tolist() for n in range(len(contents))] == [[i] for i in found.appended]


def test_every_token_of_the_source_is_appended_or_left_out_with_a_reason(grown):
    base, source, found = grown
    old = {t.bytes for t in base.vocabulary if t.kind is not TokenKind.SPECIAL}
    lacking = {t.bytes for t in source.vocabulary if t.kind is TokenKind.ORDINARY and t.text} - old
    assert len(found.appended) + sum(found.left_out.counts().values()) == len(lacking)


def test_the_text_is_shorter_and_decodes_to_itself(grown):
    base, _, found = grown
    old, new = (Tokenizer.from_str(json.dumps(d)) for d in (base.definition, found.definition))
    before, after = ([t.encode(line, add_special_tokens=False).ids for line in CORPUS] for t in (old, new))
    assert sum(map(len, after)) < sum(map(len, before))
    if base.definition["model"]["type"] == "BPE":  # the Unigram family has an unknown token, and loses text
        assert new.decode_batch(after) == old.decode_batch(before)


@pytest.mark.parametrize(("family", "other"), [("byte-level", "unigram"), ("unigram", "gemma-style")])
def test_the_most_frequent_tokens_of_a_text_come_first(zoo, family, other):
    text = TextSet.of("text", ["Der Müller mahlt das Mehl, die Mühle mahlt am Wasser. Der Müller! Der Müller!"], "")
    base, source = zoo[family], zoo[other]
    library = source.fast_tokenizer()
    counts = {}
    for i in library.encode(text.documents[0], add_special_tokens=False).ids:
        content = source.vocabulary.by_id[i].bytes
        counts[content] = counts.get(content, 0) + 1
    known = {t.bytes for t in base.vocabulary}
    first = {t.bytes: t.id for t in reversed(source.vocabulary.tokens)}
    wanted = sorted((c for c in counts if c not in known), key=lambda c: (-counts[c], first[c]))
    found = extended(base, source, None, text)
    vocabulary = Vocabulary.from_definition(found.definition)
    assert {vocabulary.by_id[i].bytes for i in found.appended} == set(wanted)
    few = extended(base, source, 4, text)
    got = {Vocabulary.from_definition(few.definition).by_id[i].bytes for i in few.appended}
    assert wanted[0] in got
    assert len(few.appended) + len(few.helpers) <= 4
    assert got <= set(wanted[: 4 + len(few.helpers) + 4])


def test_the_result_does_not_depend_on_the_order_of_entries(zoo, load):
    base, source = zoo["byte-level"], zoo["gemma-style"]
    found = extended(base, source, 60, None)
    again = extended(load(shuffled_entries(base.definition), base.config), source, 60, None)
    same = lambda e: (sorted(e.definition["model"]["vocab"].items()), list(merges_of(e.definition)))  # noqa: E731
    assert same(found) == same(again)


def test_ids_follow_added_tokens_and_gaps_stay(zoo, load):
    base = load(renumbered(zoo["byte-level"].definition, lambda i: i + 1000 * (i > 300)), zoo["byte-level"].config)
    found = extended(base, zoo["gemma-style"], 10, None)
    assert min(found.appended + found.helpers) == base.vocabulary.num_ids
    assert ids_of(found.definition, "a <tool> b") == ids_of(base.definition, "a <tool> b")


def test_lookup_before_merging_stays(zoo, load):
    """A model with ignore_merges takes whole words first; its old words stay words, and new words are found."""
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["model"]["ignore_merges"] = True
    base = load(definition, zoo["byte-level"].config)
    found = extended(base, zoo["unigram"], None, None)
    for line in CORPUS:
        ids = ids_of(found.definition, line)
        assert max(ids) >= base.vocabulary.num_ids or ids == ids_of(base.definition, line)
    plain = json.loads(json.dumps(found.definition))
    plain["model"]["ignore_merges"] = False
    vocabulary = Vocabulary.from_definition(plain)
    pieces = Segmenter(plain, vocabulary).segment([vocabulary.by_id[i].bytes for i in found.appended])
    assert [pieces[n].tolist() for n in range(len(found.appended))] == [[i] for i in found.appended]


def test_a_unigram_tokenizer_over_bytes(load, zoo):
    base = load(*byte_unigram())
    found = extended(base, zoo["unigram"], None, None)
    for line in (*CORPUS, "ж 漢 ☃"):
        ids = ids_of(found.definition, line)
        assert max(ids) >= base.vocabulary.num_ids or ids == ids_of(base.definition, line)
    vocabulary = Vocabulary.from_definition(found.definition, base.role_tokens)
    assert len(ids_of(found.definition, CORPUS[7])) < len(ids_of(base.definition, CORPUS[7]))
    assert vocabulary.tokens[: len(base.vocabulary)] == base.vocabulary.tokens


def test_a_new_piece_is_as_likely_as_its_least_likely_part(zoo):
    base = zoo["unigram"]
    found = extended(base, zoo["gemma-style"], 30, None)
    scores = [score for _, score in base.definition["model"]["vocab"]]
    bare = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": base.definition["model"]}))
    checked = 0
    for piece, score in found.definition["model"]["vocab"][base.vocabulary.num_ids :]:
        parts = bare.encode(piece, add_special_tokens=False).ids
        if base.definition["model"]["unk_id"] not in parts:
            assert score == min(scores[i] for i in parts)
            checked += 1
    assert checked > 5
    assert min(s for _, s in found.definition["model"]["vocab"]) == min(scores)


def test_what_the_base_splits_is_counted_and_named(zoo, caplog):
    with caplog.at_level(logging.WARNING):
        found = extended(zoo["byte-level"], zoo["sentencepiece-bpe"], None, None)
    split = found.left_out.labels.get(SPLIT, [])
    assert split
    assert f"{len(split):,} tokens of {zoo['sentencepiece-bpe'].name} are not appended, because {SPLIT}" in caplog.text
    assert repr(split[0]) in caplog.text


def test_a_normalizer_that_changes_the_text(zoo, load):
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["normalizer"] = {"type": "Lowercase"}
    found = extended(load(definition, zoo["byte-level"].config), zoo["gemma-style"], None, None)
    assert all(label != label.lower() for label in found.left_out.labels[CHANGED])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda zoo, load: zoo["wordpiece"], "is a WordPiece tokenizer; only BPE and Unigram"),
        (lambda zoo, load: load(*clip()), "marks where words continue or end"),
    ],
)
def test_what_cannot_be_extended(zoo, load, base, message):
    with pytest.raises(TokenAdaptError, match=message):
        extended(base(zoo, load), zoo["gemma-style"], 5, None)


def test_an_added_token_that_would_be_read_as_other_bytes_in_the_model_is_refused(zoo, load):
    """In a byte-level vocabulary, `é` spells the byte 0xE9; an added token outside the vocabulary is plain text."""
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["added_tokens"].append(added("café", zoo["byte-level"].vocabulary.num_ids, special=False))
    with pytest.raises(TokenAdaptError, match=r"cannot be extended: its added token 'café' .* the bytes b'caf\\xe9'"):
        extended(load(definition), zoo["gemma-style"], 5, None)


def test_a_source_without_new_tokens(zoo):
    with pytest.raises(TokenAdaptError, match=r"no token of .* can be appended to .*: it has all of them"):
        extended(zoo["byte-level"], zoo["byte-level"], 5, None)


# --- merges, on a vocabulary small enough to follow by hand --------------------------------------


def bpe(merges, letters="abcdxyz"):
    vocab = {s: n for n, s in enumerate([*letters, *(x + y for x, y in merges)])}
    return {"model": {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges]}, "added_tokens": []}


def found_merges(definition, spellings, most=None):
    left_out = LeftOut()
    tokens = Vocabulary.from_definition(bpe([], "q")).tokens
    offered = [Candidate(tokens[0]._replace(spelling=s, bytes=s.encode()), s) for s in spellings]
    old = Vocabulary.from_definition(definition).by_spelling
    found, taken = new_merges(definition, old, offered, most, left_out)
    return [(m.left, m.right) for m in found.merges], list(found.characters), [c.spelling for c in taken], left_out


def test_parts_that_are_wanted_are_merged_first():
    assert found_merges(bpe([]), ["abcd", "bc"])[0] == [("b", "c"), ("a", "bc"), ("abc", "d")]


def test_a_token_that_exists_is_used():
    assert found_merges(bpe([("c", "d")]), ["bcd", "abcd"])[0] == [("b", "cd"), ("a", "bcd")]


def test_the_same_pair_twice_in_one_token():
    merges, _, taken, _ = found_merges(bpe([]), ["xxxx"])
    assert (merges, taken) == ([("x", "x"), ("xx", "xx")], ["xxxx"])


def test_a_merge_that_would_make_an_old_token_is_never_added():
    """The base has the token "ab", but no merge for it: text has a, b. It has to stay so."""
    definition = bpe([])
    definition["model"]["vocab"] |= {"ab": 50, "bc": 51}
    merges, _, taken, left_out = found_merges(definition, ["abc", "abd"])
    assert merges == [("b", "d"), ("a", "bd")]
    assert taken == ["abd"]
    assert left_out.counts() == {UNMADE: 1}


def test_missing_characters_become_tokens():
    merges, characters, taken, _ = found_merges(bpe([]), ["aé", "é"])
    assert (merges, characters, taken) == ([("a", "é")], ["é"], ["aé", "é"])


@pytest.mark.parametrize(
    ("most", "expected"), [(0, []), (1, ["dx"]), (2, ["abc"]), (3, ["abc", "dx"]), (9, ["abc", "dx"])]
)
def test_parts_count_and_what_does_not_fit_is_passed_over(most, expected):
    merges, _, taken, _ = found_merges(bpe([]), ["abc", "dx"], most)
    assert taken == expected
    assert len(merges) <= most


@given(st.lists(st.text("abcd", min_size=2, max_size=5), min_size=1, max_size=12, unique=True), st.integers(0, 30))
def test_each_taken_token_is_made_by_the_library(spellings, seed):
    rng = permutation(16, seed)
    old = [("abcd"[n // 4], "abcd"[n % 4]) for n in rng[:3]]
    definition = bpe(old)
    offered = [s for s in spellings if s not in definition["model"]["vocab"]]
    merges, _, taken, left_out = found_merges(definition, offered)
    made = list(dict.fromkeys(x + y for x, y in merges))
    model = definition["model"]
    vocab = model["vocab"] | {s: len(model["vocab"]) + n for n, s in enumerate(made)}
    grown_model = {**model, "vocab": vocab, "merges": [*model["merges"], *map(list, merges)]}
    new = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": grown_model}))
    assert [new.encode(s).tokens for s in taken] == [[s] for s in taken]
    assert len(taken) + sum(left_out.counts().values()) == len(offered)


def test_a_failed_attempt_leaves_nothing_behind():
    found = NewMerges({"a": 0, "b": 1, "c": 2}, {})
    assert found.reach(["a", "b", "c"], room=1) is False
    assert (found.size, found.merges) == (0, [])
    assert found.reach(["a", "b"], room=1) is True
    assert found.reach(["a", "b"], room=0) is True
    assert found.size == 1


def test_tokens_of_several_digits_are_left_out_where_the_base_segments_numbers_by_a_rule(zoo, monkeypatch):
    base, source = zoo["gemma-style"], zoo["unigram"]
    several = re.compile("[0-9]{2}")

    def appended():
        found = extended(base, source, None, None)
        new = found.definition["model"]["vocab"].keys() - base.definition["model"]["vocab"].keys()
        return found, [spelling for spelling in new if several.search(spelling)]

    _, with_digits = appended()
    assert with_digits
    monkeypatch.setattr(candidates_module, "habits", lambda _base: {"digits": "one by one"})
    found, with_digits = appended()
    assert not with_digits
    assert all(several.search(label) for label in found.left_out.labels[NUMBERS])
