"""A text to learn from, and what is learned from it."""

import random

import pytest
from learning_texts import QUIET
from sentences import SENTENCES
from tokenizers_zoo import CORPUS

from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.superwords import train_superwords
from mergekit_tokenadapt.supertokens.texts import Corpus


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """Own words, many times over in a changing order, so that there is something to learn."""
    rng, lines = random.Random(0), SENTENCES[:5] * 5 + SENTENCES + CORPUS
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(rng.choice(lines) for _ in range(1500)), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def corpus(text_file):
    return Corpus([str(text_file)])


@pytest.fixture(scope="session")
def trained(corpus):
    """A superword tokenizer definition of 1,200 tokens. Not to be changed."""
    return train_superwords(corpus, 1200, rules=Rules(), limits=QUIET, special_tokens=["<end>"])


@pytest.fixture(scope="session", params=["byte-level", "sentencepiece-bpe", "gemma-style"])
def extended(request, zoo, corpus):
    """A tokenizer of each BPE family in turn, and 150 tokens added to it. Not to be changed."""
    base = zoo[request.param]
    return base, extend(base, corpus, 150, Rules(), QUIET)
