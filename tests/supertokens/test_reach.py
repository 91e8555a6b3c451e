"""Tokens that the pre-tokenizer makes unreachable are taken out."""

from mergekit_tokenadapt.supertokens.reach import pruned


def test_what_is_taken_out_takes_along_what_needs_it():
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc"), ("ab", "\n"), ("c", "c"), ("ab\n", "c")]
    made = ["ab", "abc", "bc", "ab\n", "cc", "ab\nc"]
    vocab = {t: n for n, t in enumerate(["a", "b", "c", "\n", *made])}
    split = {"type": "Split", "pattern": {"Regex": "\\w+|\n"}, "behavior": "Isolated", "invert": False}
    definition = {"model": {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges]}, "pre_tokenizer": split}
    result, gone = pruned(definition, {}, made)
    assert [t.spelling for t in gone] == ["ab\n", "ab\nc"]  # split; and made of that
    assert result["model"]["vocab"] == {"a": 0, "b": 1, "c": 2, "\n": 3, "ab": 4, "abc": 5, "bc": 6, "cc": 7}
    assert result["model"]["merges"] == [list(m) for m in merges if "\n" not in "".join(m)]
    assert definition["model"]["vocab"] == vocab  # the given one is not changed
