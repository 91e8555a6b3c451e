"""What a new token may hold."""

import numpy as np
import pytest

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.rules import Crossing, Joints, Rules, crossed
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (" end of the", set()),
        (", and", set()),
        ("self.river", set()),
        ("end. The", {"sentences"}),
        ('said." Then', {"sentences"}),
        ("終わり。川", {"sentences"}),
        ("川へ行った。", set()),
        (" in 2024", {"digits"}),
        ("2024", set()),
        ("x\n", {"lines"}),
        ("  x", {"lines"}),
        ("\n\n    ", set()),
        ("end реки", {"scripts"}),
        ("ひらがなと漢字", set()),
    ],
)
def test_rules_on_text(text, broken):
    assert {c.value for c in crossed(text)} == broken
    assert Rules(max_words=9).accept(text.encode()) == (not broken)
    assert Rules(max_words=9, crossing=frozenset(Crossing)).accept(text.encode())


def test_most_words():
    assert Rules(max_words=2).accept(b" of the")
    assert not Rules(max_words=2).accept(b" of the end")
    with pytest.raises(TokenAdaptError, match="max_words: takes a number greater than 0, not 0"):
        Rules(max_words=0)


def test_joints_are_the_rules_for_every_pair(zoo):
    vocabulary = zoo["byte-level"].vocabulary
    joints, ids = Joints(vocabulary, Rules(max_words=99)), vocabulary.ids()
    left, right = np.repeat(ids, len(ids)), np.tile(ids, len(ids))
    allowed = joints.allowed(left, right)
    assert 0 < allowed.sum() < len(allowed)
    for a, b in zip(left[allowed].tolist(), right[allowed].tolist(), strict=True):
        one, two = vocabulary.by_id[a], vocabulary.by_id[b]
        assert one.kind is two.kind is TokenKind.ORDINARY
        joined = one.bytes + two.bytes
        if one.text is None or two.text is None:  # parts of a character become that character, or none
            assert len(joined.decode("utf-8", "ignore").strip()) == 1 or not Rules().accept(joined) or len(joined) < 5
        else:
            # "'" and "s" are of no script in common with what comes before: the token's text is looked at, too.
            assert not crossed(joined.decode("utf-8")) - {Crossing.SENTENCES, Crossing.SCRIPTS}
    spelt = {
        (vocabulary.by_id[a].label, vocabulary.by_id[b].label)
        for a, b in zip(left[allowed].tolist(), right[allowed].tolist(), strict=True)
    }
    assert ("e", " t") in spelt
    assert (".", " t") not in spelt
    assert ("e", "1") not in spelt
