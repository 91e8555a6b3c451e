"""A text in the tokens of two tokenizers."""

import pytest
from calibration_lines import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_tokenadapt.tokenizer.alignment import shared_bytes, standing_at


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("the river  \n\tdef():漢é1"), max_size=60))
@pytest.mark.parametrize(
    ("old", "new"), [("byte-level", "gemma-style"), ("sentencepiece-bpe", "byte-level"), ("gemma-style", "unigram")]
)
def test_each_new_token_starts_inside_the_old_token_that_it_is_said_to(zoo, old, new, text):
    before, after = encode(text, zoo[old]), encode(text, zoo[new])
    places, passed = standing_at(before, after)
    assert len(places) == len(passed) == len(after.ids)
    for n, (place, skipped) in enumerate(zip(places, passed, strict=True)):
        if place >= 0:
            assert before.starts[place] + skipped == after.starts[n] < before.ends[place]
        else:
            assert after.starts[n] == after.ends[n] or not (before.ends > after.starts[n]).any()


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("the river  \n\tdef():漢é1"), max_size=60))
@pytest.mark.parametrize(
    ("old", "new"), [("byte-level", "gemma-style"), ("sentencepiece-bpe", "byte-level"), ("gemma-style", "unigram")]
)
def test_shared_bytes_are_those_of_each_pair(zoo, old, new, text):
    before, after = encode(text, zoo[old]), encode(text, zoo[new])
    expected = {
        (m, n): common
        for m in range(len(before.ids))
        for n in range(len(after.ids))
        if (common := min(before.ends[m], after.ends[n]) - max(before.starts[m], after.starts[n])) > 0
    }
    at_old, at_new, num_bytes = shared_bytes(before, after)
    found = dict(zip(zip(at_old.tolist(), at_new.tolist(), strict=True), num_bytes.tolist(), strict=True))
    assert found == expected
    assert len(found) == len(at_old)
