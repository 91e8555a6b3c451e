"""The text that the target of a draft writes."""

import pytest
import tokenizers_zoo
import torch

from mergekit_tokenadapt.healing import sampled_text, target_text
from mergekit_tokenadapt.healing.target_text import TargetWriter
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.generation import continue_prompts
from mergekit_tokenadapt.texts import TextSet, split_passages

CPU = torch.device("cpu")
PLENTY = 1000.0
SENTENCES = {"one": 200, "two": 400}


@pytest.fixture(scope="module")
def target(tmp_path_factory, byte_level_folder):
    return open_model(str(tokenizers_zoo.tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("t") / "target")))


@pytest.fixture
def writer(target, monkeypatch):
    """Two texts, the second with more prompts, four at a time."""
    monkeypatch.setattr(target_text, "BATCH", 4)
    texts = [
        TextSet.of(name, [f"{name} the cat sat on the mat. " * times], "here") for name, times in SENTENCES.items()
    ]
    return TargetWriter(target, texts, seed=0)


def documents_of(writer, seconds=PLENTY):
    with writer.written(seconds, CPU, quiet=True) as written:
        return [text.documents for text in written]


def test_each_text_is_continued_from_its_own_prompts(writer, target):
    one, two = documents_of(writer)
    for documents, name in ((one, "one"), (two, "two")):
        whole = f"{name} the cat sat on the mat. " * SENTENCES[name]
        passages = list(split_passages(whole, target_text.PROMPT_EVERY))
        assert len(documents) in (len(passages), len(passages) - 1)  # the last one may be too short for a prompt
        assert all(name in text for text in documents)
    assert documents_of(writer) == [one, two]
    encoder = target.tokenizer.fast_tokenizer()
    lengths = [len(encoder.encode(text, add_special_tokens=False).ids) for text in one]
    assert max(lengths) > target_text.PROMPT_TOKENS + 50


def test_a_writer_that_is_out_of_time_writes_a_batch_of_each_text(writer):
    one, two = documents_of(writer, seconds=0)
    assert (len(one), len(two)) == (4, 4)


def test_a_run_that_goes_on_takes_what_was_written(writer, monkeypatch):
    stopped = writer.written(0, CPU, quiet=True)
    first = [text.documents for text in stopped.__enter__()]
    stopped.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    monkeypatch.setattr(sampled_text, "continue_prompts", lambda *_: pytest.fail("everything was written"))
    assert documents_of(writer, PLENTY) == first


def test_prompts_are_continued_together_as_they_are_alone(target):
    from mergekit_tokenadapt.models.loading import load_model

    model, token_ids = load_model(target), torch.from_numpy(target.tokenizer.vocabulary.ids())
    prompts_BT = torch.tensor([[5, 6, 7], [9, 8, 7]])
    together = continue_prompts(model, prompts_BT, 10, 0.0, token_ids, torch.Generator())
    for prompt, found in zip(prompts_BT.tolist(), together.tolist(), strict=True):
        ids = list(prompt)
        for _ in range(10):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert found == ids
