"""How the passages of a text are read for an objective."""

import pytest
import torch

from mergekit_tokenadapt.healing.objectives import lesson_for
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.models.folder import open_model

PASSAGES = [f"passage {n} has some words, and the number {n * 37}" for n in range(24)]


def lesson_of(pair, *, read=24, **options):
    """The lesson of `PASSAGES`, where there is time to read a number of them."""
    base, model = (open_model(str(folder)) for folder in pair)
    asked = []

    def goes_on():
        asked.append(True)
        return 8 * len(asked) < read  # a shard has 8 passages

    return lesson_for(
        model,
        base,
        PASSAGES,
        HealOptions(copies=0.0, **options),
        torch.device("cpu"),
        None,
        longest=None,
        goes_on=goes_on,
        quiet=True,
    )


def is_plain(passage):
    """Whether all probability is on the tokens of the text."""
    return torch.equal(passage.targets.ids, passage.ids) and bool((passage.targets.weights == 1).all())


@pytest.mark.parametrize(("share", "plain"), [(0.5, 8), (0.2, 2), (0.75, 16), (0.0, 0)])
def test_passages_that_the_base_model_does_not_read_teach_the_text(tied_pair, share, plain):
    lesson = lesson_of(tied_pair, read=8, plain_share=share)
    assert [is_plain(passage) for passage in lesson.passages] == [False] * 8 + [True] * plain
    assert [passage.number for passage in lesson.passages] == list(range(8 + plain))
    encoder = open_model(str(tied_pair[1])).tokenizer.fast_tokenizer()
    for text, passage in zip(PASSAGES, lesson.passages, strict=False):
        assert passage.ids.tolist() == encoder.encode(text, add_special_tokens=False).ids
    assert lesson.tokens_read == sum(len(passage.ids) for passage in lesson.passages[:8])


def test_of_a_short_text_the_base_model_reads_all(tied_pair):
    lesson = lesson_of(tied_pair)
    assert len(lesson.passages) == len(PASSAGES)
    assert not any(map(is_plain, lesson.passages))


def test_steps_that_are_given_are_shared_out(tied_pair):
    lesson = lesson_of(tied_pair, steps=5, passages_per_step=4)
    assert [is_plain(passage) for passage in lesson.passages] == [False] * 10 + [True] * 10


def test_the_base_model_reads_at_least_one_passage(tied_pair):
    lesson = lesson_of(tied_pair, steps=1, passages_per_step=2, plain_share=0.9)
    assert [is_plain(passage) for passage in lesson.passages] == [False, True]


def test_other_objectives_have_no_plain_passages_and_all_the_time_to_read(tied_pair):
    lesson = lesson_of(tied_pair, objective="chunks", steps=5, passages_per_step=4)
    assert len(lesson.passages) == 20
    assert lesson.tokens_read == sum(len(passage.ids) for passage in lesson.passages)
    assert HealOptions(objective="chunks", plain_share=0.5).unread_share == 0.0
    assert HealOptions(plain_share=0.3).unread_share == 0.3
