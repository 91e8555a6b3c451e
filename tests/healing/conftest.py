"""A tiny base model that knows its text, a transplant of it, and a text to heal with."""

import pytest
import tokenizers_zoo
import torch
import transformers
from transplanting import transplant

from mergekit_tokenadapt.tokenizer.files import load_tokenizer

LINES = (
    "the river is deep and the miller counts stones by the water",
    "def count(stones): return sum(1 for stone in stones)",
    "on monday the cat sat on the mat, and on tuesday it slept",
    "words ending in ing were singing in the ring: walking, talking",
    "bread and water, water and bread, said the miller to the cat",
)


def lines(number):
    return [f"{LINES[n % len(LINES)]} {n % 7}" for n in range(number)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Checkpoints go to a cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MERGEKIT_TOKENADAPT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tied_pair(tmp_path_factory, byte_level_folder, gemma_style_folder):
    """A base model that was trained on the text, and the folder of its transplant; one matrix for input and output."""
    return _pair(tmp_path_factory.mktemp("tied"), byte_level_folder, gemma_style_folder, tied=True)


@pytest.fixture(scope="session")
def untied_pair(tmp_path_factory, byte_level_folder, gemma_style_folder):
    """The same with two matrices."""
    return _pair(tmp_path_factory.mktemp("untied"), byte_level_folder, gemma_style_folder, tied=False)


@pytest.fixture(params=["tied", "untied"])
def pair(request):
    """Each of them in turn."""
    return request.getfixturevalue(f"{request.param}_pair")


def _pair(folder, old, new, *, tied):
    base = tokenizers_zoo.tiny_model_folder(old, folder / "base", tied=tied)
    _train(base)
    return base, transplant(base, new, folder / "moved")


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines(300)), encoding="utf-8")
    return file


@pytest.fixture
def other_model(tmp_path, gemma_style_folder):
    """A model with another vocabulary: the target of a draft, the teacher of a student."""
    return tokenizers_zoo.tiny_model_folder(gemma_style_folder, tmp_path / "other", tied=True, seed=3)


def _train(folder, steps=120):
    """Plain next-token training of the folder's model, in place."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    encoder = load_tokenizer(str(folder)).fast_tokenizer()
    ids = encoder.encode("\n".join(lines(300)), add_special_tokens=False).ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        start = 61 * step % (len(ids) - 4 * 64)
        batch = torch.tensor(ids[start : start + 4 * 64]).reshape(4, 64)
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
