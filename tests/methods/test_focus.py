"""The method `focus` against a plain version of its weights, and with fastText's own training."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers_zoo import make_transfer, with_method

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.methods.focus import Focus
from mergekit_tokenadapt.transfer.examples import shared_rows


@pytest.fixture
def transfer(zoo):
    return make_transfer(zoo["byte-level"], zoo["gemma-style"])


@pytest.fixture
def text(transfer, tmp_path):
    """A file that shows some of the new tokens, and shared ones, several times."""
    shared = set(shared_rows(transfer).values())
    tokens = [*transfer.new_tokens[:200], *(t for t in transfer.target.vocabulary if t.id in shared)]
    words = [t.bytes.decode("utf-8", errors="ignore") for t in tokens if t.bytes and t.bytes.strip().isalpha()]
    file = tmp_path / "text.txt"
    file.write_text("\n".join(" ".join(words) for _ in range(4)), encoding="utf-8")
    return file


def counts_of(text, transfer):
    ids = transfer.target.fast_tokenizer().encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return {i: ids.count(i) for i in set(ids)}


def plain_sparsemax(scores):
    ordered = sorted(scores, reverse=True)
    support = max(k for k in range(1, len(ordered) + 1) if 1 + k * ordered[k - 1] > sum(ordered[:k]))
    threshold = (sum(ordered[:support]) - 1) / support
    return [max(0.0, z - threshold) for z in scores]


def cosine(left, right):
    return float(left @ right) / math.sqrt(float(left @ left) * float(right @ right))


def test_weights_are_sparsemax_of_cosines(transfer, text, monkeypatch):
    generator = np.random.default_rng(0)
    vectors = {t.id: generator.normal(size=12).astype(np.float32) for t in transfer.target.vocabulary}
    monkeypatch.setattr(Focus, "_train", lambda *_: vectors)
    least = 2
    made = find_method("focus", {"text": str(text), "least_count": least}).weigh(transfer)
    counts = counts_of(text, transfer)
    shared = {new: old for old, new in shared_rows(transfer).items() if counts.get(new, 0) >= least}
    kinds = set()
    for n, token in enumerate(transfer.new_tokens):
        found = dict(made.row(n))
        if counts.get(token.id, 0) >= least:
            scores = [cosine(vectors[token.id], vectors[new]) for new in shared]
            weights = zip(shared.values(), plain_sparsemax(scores), strict=True)
            expected = {old: w for old, w in weights if w > 0}
            kinds.add("known")
        else:
            pieces = transfer.pieces[n].tolist()
            expected = {i: pieces.count(i) / len(pieces) for i in pieces}
            kinds.add("rare")
        assert found == pytest.approx(expected, abs=1e-5), token
    assert kinds == {"known", "rare"}


def test_rare_tokens_can_be_random(transfer, text):
    options = {"text": str(text), "least_count": 2, "rare": "random", "dimensions": 8}
    plan = with_method(transfer, "focus", **options).make_plan()
    counts = counts_of(text, transfer)
    rare = [t.id for t in transfer.new_tokens if counts.get(t.id, 0) < 2]
    assert plan.drawn is not None
    assert plan.drawn.new_ids.tolist() == rare
    old = torch.randn(transfer.base_rows, 4, generator=torch.Generator().manual_seed(1))
    rows = plan.apply(old).rows
    assert torch.equal(rows, plan.apply(old).rows)
    assert rows[rare].std() == pytest.approx(float(old.std()), rel=0.2)


RUN = """
import hashlib, sys
import torch
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.transfer import Transfer
base, target, text = sys.argv[1:]
old = load_tokenizer(base)
adapt = AdaptConfig(method="focus", text=text, least_count=2, dimensions=16, rows="exact")
torch.set_num_threads(1)
new, rows = load_tokenizer(target), old.vocabulary.num_ids
made = Transfer.of(adapt, base=old, target=new, base_rows=rows, quiet=True).make_plan()
print(hashlib.sha256(made.composition.weights.numpy().tobytes() + made.composition.ids.numpy().tobytes()).hexdigest())
"""


def test_fasttext_gives_the_same_rows_whatever_python_hashes(transfer, text, byte_level_folder, gemma_style_folder):
    command = [sys.executable, "-c", RUN, str(byte_level_folder), str(gemma_style_folder), str(text)]
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1


def test_a_text_without_frequent_shared_tokens_is_refused(transfer, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the", encoding="utf-8")
    with pytest.raises(TokenAdaptError, match="focus: no token of both vocabularies occurs 10 times in "):
        find_method("focus", {"text": str(file)}).weigh(transfer)


def test_without_gensim_one_line_says_how_to_install_it(transfer, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(TokenAdaptError, match=r"mergekit-tokenadapt\[focus\]"):
        find_method("focus", {"text": str(text)}).weigh(transfer)
