"""Post-processors whose tokens before a text are changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import tokenizer_of
from mergekit_tokenadapt.tokenizer.post_processors import with_leading_tokens
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary

WORDS = {word: i for i, word in enumerate(["<s>", "</s>", "<x>", "a", "b", "c"])}
ADDED = [
    {
        "id": i,
        "content": word,
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    for word, i in WORDS.items()
    if word.startswith("<")
]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def definition_with(post_processor):
    return {
        "version": "1.0",
        "added_tokens": ADDED,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": post_processor,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "<x>"},
    }


def template(before, after):
    def special(word):
        return {"SpecialToken": {"id": word, "type_id": 0}}

    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    before, after = [special(word) for word in before], [special(word) for word in after]
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, *after],
        "pair": [*before, first, *after, second, *after],
        "special_tokens": {w: {"id": w, "ids": [WORDS[w]], "tokens": [w]} for w in ("<s>", "</s>", "<x>")},
    }


SPECIALS = st.lists(st.sampled_from(["<s>", "</s>", "<x>"]), max_size=3)


@given(
    before=SPECIALS,
    after=SPECIALS,
    wanted=SPECIALS,
    text=st.lists(st.sampled_from("abc"), min_size=1),
    around=st.sampled_from(["template", "none", "byte level", "sequence"]),
)
def test_the_tokens_before_a_text_are_the_wanted_ones_and_the_rest_stays(before, after, wanted, text, around):
    given = {
        "template": template(before, after),
        "none": None,
        "byte level": BYTE_LEVEL,
        "sequence": {"type": "Sequence", "processors": [BYTE_LEVEL, template(before, after)]},
    }[around]
    vocabulary = Vocabulary.from_definition(definition_with(None), {})
    changed = with_leading_tokens(given, [vocabulary.by_spelling[word] for word in wanted])
    encoded = tokenizer_of(definition_with(changed))
    after = [WORDS[word] for word in after] if around in ("template", "sequence") else []
    words, first = [WORDS[word] for word in text], [WORDS[word] for word in wanted]
    assert encoded.encode(" ".join(text)).ids == first + words + after
    assert encoded.encode(" ".join(text), "c").ids == first + words + after + [WORDS["c"]] + after


def test_nothing_changes_where_nothing_is_there_and_nothing_is_wanted():
    assert with_leading_tokens(None, []) is None
    assert with_leading_tokens(BYTE_LEVEL, []) is BYTE_LEVEL


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_fixed_tokens_are_refused(kind):
    more = {"trim_offsets": True, "add_prefix_space": False} if kind == "RobertaProcessing" else {}
    given = {"type": kind, "sep": ["</s>", 1], "cls": ["<s>", 0], **more}
    assert Tokenizer.from_str(json.dumps(definition_with(given))).encode("a").ids == [0, 3, 1]
    with pytest.raises(TokenAdaptError, match=f"post-processor {kind}"):
        with_leading_tokens(given, [])
