"""Pre-tokenizers made coarser: where tokens may span words."""

import pytest
from hypothesis import given
from learning_texts import QUIET, TEXT
from tokenizers import Regex, pre_tokenizers
from tokenizers_zoo import BYTE_LEVEL, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.coarsening import Coarsening
from mergekit_tokenadapt.supertokens.crossing_merges import narrowed
from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.rules import Crossing, Rules, character_kind
from mergekit_tokenadapt.supertokens.seams import coarse_pattern, seams
from mergekit_tokenadapt.supertokens.word_patterns import GPT2, word_pattern

PATTERNS = {
    "ours": word_pattern(),
    "gpt2": GPT2,
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
}


def pieces_of(pattern, text):
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
    return [offset for _, offset in pieces]


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("crossing", [frozenset(), frozenset(Crossing)], ids=["default", "all crossing"])
@given(text=TEXT)
def test_coarse_pieces_are_runs_of_whole_pieces(pattern, crossing, text):
    fine, coarse = pieces_of(pattern, text), pieces_of(coarse_pattern(pattern, seams(Rules(crossing=crossing))), text)
    assert {end for _, end in coarse} <= {end for _, end in fine}
    assert "".join(text[a:b] for a, b in coarse) == text


@given(text=TEXT)
def test_a_boundary_goes_only_where_a_seam_is(text):
    """Against a plain check of both characters."""
    pattern = PATTERNS["ours"]
    kept = {start for start, _ in pieces_of(coarse_pattern(pattern, seams(Rules())), text)}
    for start, _ in pieces_of(pattern, text)[1:]:
        left, right = text[start - 1], text[start:].removeprefix(" ")[:1]
        kinds = [character_kind(c) for c in (left, right or " ")]
        ends = (left in ".!?…‽" and text[start] == " ") or left in "。！？｡।॥۔؟።"
        if "digit" in kinds or "white" in kinds or ends:
            assert start in kept


def test_default_boundaries():
    pattern = coarse_pattern(word_pattern(), seams(Rules()))
    text = "One of the, well. New line\n    self.x = 12345 ok  two"
    assert [text[a:b] for a, b in pieces_of(pattern, text)] == [
        "One of the, well.", " New line", "\n", "   ", " self.x =", " ", "123", "45", " ok", " ", " two",
    ]  # fmt: skip


def test_no_seam_where_a_merge_reaches_across():
    # In GPT-2's pattern "'s" is split off "'sun", and "(f" is never one piece.
    definition = plain_definition(
        [*"'(sunf", "un", "'s", "Ġ", "Ġs"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL,
        merges=[["u", "n"], ["'", "s"], ["Ġ", "s"]],
    )  # fmt: skip
    found, notes = narrowed(seams(Rules()), definition)
    assert [s.without for s in found if (s.left, s.space, s.right) == ("punctuation", False, "letter")] == [
        frozenset("'") | frozenset("。！？｡।॥۔؟።")
    ]
    assert len(notes) == 1
    assert "but not at ':" in notes[0]
    assert Coarsening.of(definition, Rules()).seams


def test_a_base_whose_merges_cross_words_is_refused():
    definition = plain_definition(
        ["a", "Ġ", "b", "Ġb", "aĠb"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL, merges=[["Ġ", "b"], ["a", "Ġb"]]
    )
    with pytest.raises(TokenAdaptError, match=r"merges reach across the boundaries between words.*'a' and ' b'"):
        Coarsening.of(definition, Rules())


def test_incomplete_characters_count_as_all_that_they_can_be():
    # 'à¤' is the beginning of Devanagari letters and marks; 'â' of punctuation.
    definition = plain_definition(
        ["r", "à¤", "rà¤", "â", "râ"], pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL, merges=[["r", "à¤"], ["r", "â"]]
    )
    found, notes = narrowed(seams(Rules()), definition)
    marks = next(s for s in found if s.right == "mark")
    assert marks.without == {"Devanagari"}
    assert next(s for s in found if (s.left, s.space, s.right) == ("letter", False, "punctuation")).ascii_only
    assert any("Devanagari" in note for note in notes)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"},
                                                                  {**BYTE_LEVEL, "use_regex": False}]}},
    ],
    ids=["whitespace", "prefix space", "no pattern"],
)  # fmt: skip
def test_an_unknown_pre_tokenizer_is_refused(change, zoo, load, corpus):
    definition = {**zoo["byte-level"].definition, **change}
    with pytest.raises(TokenAdaptError, match="none that can be made coarser"):
        extend(load(definition), corpus, 10, Rules(), QUIET)
