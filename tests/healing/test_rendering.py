"""Conversations as two models read them, and the common scale of their tokens."""

import dataclasses

import pytest
import tokenizers_zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.rendering import MARK, Renderer, encoded_pair
from mergekit_tokenadapt.tokenizer.alignment import standing_at
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

SAME = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
OTHER = "{% for m in messages %}{{ m['content'] }}<eos><pad>{% endfor %}"
CHAT = [
    {"role": "user", "content": "The mill counts stones?"},
    {"role": "assistant", "content": "Über der Brücke: bread."},
]


def with_template(folder, template):
    return dataclasses.replace(load_tokenizer(str(folder)), config={"chat_template": template})


@pytest.fixture(scope="module")
def base(byte_level_folder):
    return load_tokenizer(str(byte_level_folder))


def compared(base, model, passage):
    """The texts of each new token and of the base token that it is compared with, or None."""
    tokenizers = base, model
    encoders = tuple(t.fast_tokenizer() for t in tokenizers)
    old, new = encoded_pair(passage, encoders, tokenizers)
    places, passed = standing_at(old, new)
    found = []
    for token, place, already in zip(new.ids.tolist(), places.tolist(), passed.tolist(), strict=True):
        old_label = None if place < 0 else (base.vocabulary.by_id[int(old.ids[place])].spelling, already)
        found.append((model.vocabulary.by_id[token].spelling, old_label))
    return found


def test_equal_frames_are_compared_in_detail(base, gemma_style_folder):
    model = with_template(gemma_style_folder, SAME)
    passage = Renderer(base, model).render(CHAT)
    # Each passage is read after the start token, which is therefore not in it.
    assert str(passage).startswith("user\nThe mill")
    assert passage.old.startswith("user\nThe mill")
    assert "<eos>\n<bos>assistant\n" in passage
    assert "<|im_end|>\n<|im_start|>assistant\n" in passage.old
    found = dict(compared(base, model, passage))
    assert found["<eos>"] == ("<|im_end|>", 0)
    assert found["<bos>"] == ("<|im_start|>", 0)
    assert None not in found.values()


def test_of_other_frames_the_end_of_a_message_is_compared(base, gemma_style_folder):
    model = with_template(gemma_style_folder, OTHER)
    passage = Renderer(base, model).render(CHAT)
    assert passage == "The mill counts stones?<eos><pad>Über der Brücke: bread.<eos><pad>"
    pairs = compared(base, model, passage)
    assert [old for new, old in pairs if new == "<eos>"] == [("<|im_end|>", 0)] * 2
    assert [old for new, old in pairs if new == "<pad>"] == [None] * 2
    assert all(old is not None and "<|" not in old[0] for new, old in pairs if new not in ("<eos>", "<pad>"))


def test_a_frame_that_begins_with_ordinary_text_of_the_base_is_not_compared(byte_level_folder, gemma_style_folder):
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    base, model = with_template(byte_level_folder, plain), with_template(gemma_style_folder, OTHER)
    pairs = compared(base, model, Renderer(base, model).render(CHAT))
    assert [old for new, old in pairs if new == "<eos>"] == [None] * 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=12), min_size=1, max_size=3))
def test_messages_are_compared_as_they_are_without_frames(contents):
    """Inside messages, whatever they say, the comparison is that of the bytes: worked out by hand from offsets."""
    folder = _folders["byte_level"], _folders["gemma_style"]
    base, model = load_tokenizer(str(folder[0])), with_template(folder[1], OTHER)
    passage = Renderer(base, model).render([{"role": "user", "content": content} for content in contents])
    if passage is None or any(mark in c for c in contents for mark in ("<eos>", "<pad>", "<|")):
        return
    frames = ("user\n", "<|im_end|>\n<|im_start|>user\n"), ("", "<eos><pad>")
    for scale, (first, between) in zip(passage.scales, frames, strict=True):
        place, expected = len(first), 0
        for content in contents:
            size = len(content.encode())
            assert scale[place : place + size + 1].tolist() == list(range(expected, expected + size + 1))
            place, expected = place + size + len(between), expected + size + 1


_folders = {}


@pytest.fixture(scope="module", autouse=True)
def folders(byte_level_folder, gemma_style_folder):
    _folders.update(byte_level=byte_level_folder, gemma_style=gemma_style_folder)


def test_white_space_that_a_template_takes_away(base, gemma_style_folder):
    model = with_template(gemma_style_folder, OTHER.replace("m['content']", "m['content'] | trim"))
    assert "The mill<eos>" in Renderer(base, model).render([{"role": "user", "content": " The mill\n"}])


def test_a_template_that_changes_a_message(base, gemma_style_folder):
    model = with_template(gemma_style_folder, OTHER.replace("m['content']", "m['content'] | upper"))
    assert Renderer(base, model).render(CHAT) is None
    model = with_template(gemma_style_folder, "{{ messages[0]['content'] }}")
    assert Renderer(base, model).render(CHAT) is None


def test_a_template_that_refuses_and_none_at_all(base, gemma_style_folder):
    model = with_template(gemma_style_folder, "{{ raise_exception('no assistant') }}")
    with pytest.raises(TokenAdaptError, match="refuses a conversation with the roles user, assistant: no assistant"):
        Renderer(base, model).render(CHAT)
    with pytest.raises(TokenAdaptError, match="has no chat template"):
        Renderer(base, load_tokenizer(str(gemma_style_folder))).render(CHAT)


def test_marks_are_one_of_a_kind():
    assert MARK.format(1) not in MARK.format(11)
    assert tokenizers_zoo.CHAT_TEMPLATE.count("content") == 1
