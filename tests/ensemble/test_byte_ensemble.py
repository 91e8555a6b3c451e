"""The next byte of a model of tokens, against plain enumeration of all sequences of tokens."""

import math

import numpy as np
import pytest
import tokenizers_zoo
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_zoo import CORPUS
from transformers import AutoModelForCausalLM

from mergekit_tokenadapt.ensemble.byte_ensemble import ByteEnsemble
from mergekit_tokenadapt.ensemble.byte_model import EOS, ByteModel
from mergekit_tokenadapt.ensemble.canonical import AROUND, Canonical, endings
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")  # names that transformers is to drop

FAMILIES = ("byte-level", "gemma-style", "sentencepiece-bpe")


@pytest.fixture(scope="module")
def models(tmp_path_factory, zoo_folders, tiny_model_folder):
    root = tmp_path_factory.mktemp("byte-models")
    folders = {f: tiny_model_folder(zoo_folders[f], root / f, seed=n) for n, f in enumerate(FAMILIES)}
    return {f: (AutoModelForCausalLM.from_pretrained(p).eval(), load_tokenizer(str(p))) for f, p in folders.items()}


class ByEnumeration:
    """P(x) as the lemma defines it: all sequences of tokens that cover x, each checked by encoding texts."""

    def __init__(self, model, files):
        self.model, self.files = model, files
        self.canonical = Canonical(files)  # only for the encoder and the tokens' bytes
        self.tokens = dict(zip(self.canonical.ids.tolist(), self.canonical.contents, strict=True))
        roles = files.vocabulary.roles
        self.start = roles.get("bos", roles.get("eos"))

    def covers(self, text, before=()):
        for token, content in self.tokens.items():
            if len(content) >= len(text):
                if content.startswith(text):
                    yield (*before, token)
            elif text.startswith(content):
                yield from self.covers(text[len(content) :], (*before, token))

    def is_canonical(self, sequence):
        content = b"".join(self.tokens[t] for t in sequence)
        for ending in self.all_endings(content):
            ids = self.canonical._encoder.encode((content + ending).decode(), add_special_tokens=False).ids
            if tuple(ids[: len(sequence)]) == sequence:
                return True
        return False

    def all_endings(self, content):
        """Nothing, any ASCII character, or whatever completes the last one: more than the code tries."""
        one_byte = [bytes([b]) for b in (*range(9, 127), *range(0x80, 0xC0))]
        for ending in [b"", *one_byte, *endings(content)]:
            try:
                (content + ending).decode()
            except UnicodeDecodeError:
                continue
            yield ending

    @torch.no_grad()
    def probability(self, text):
        sequences = [s for s in self.covers(text) if self.is_canonical(s)]
        total = 0.0
        for sequence in sequences:
            ids = torch.tensor([[self.start, *sequence]])
            logs = self.model(ids).logits[0, :-1].double().log_softmax(-1)
            total += math.exp(sum(float(logs[n, t]) for n, t in enumerate(sequence)))
        return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["the", "a  b", "3.", "ü", "x\n"], ids=repr)
def test_masses_are_those_of_all_covers(models, family, text):
    model, files = models[family]
    slow = ByEnumeration(model, files)
    fast = ByteModel(model, files, tolerance=0)
    content = text.encode()
    space = fast.canonical.dummy_space
    nothing = slow.probability(space) if space else 1.0
    for length in range(1, len(content) + 1):
        fast.append(content[length - 1])
        expected = slow.probability(space + content[:length]) / nothing
        assert fast.log_mass() == pytest.approx(math.log(expected), abs=1e-4), content[:length]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_distribution_is_that_of_all_covers(models, family):
    model, files = models[family]
    slow, fast = ByEnumeration(model, files), ByteModel(model, files, tolerance=0)
    ByteEnsemble([fast]).read(b"th")
    found = np.exp(fast.log_probabilities())
    assert found.sum() == pytest.approx(1)
    prefix = fast.canonical.dummy_space + b"th"
    values = {byte: slow.probability(prefix + bytes([byte])) for byte in b"eaio xyz\n"}
    ratio = found[ord("e")] / values[ord("e")]
    for byte, value in values.items():
        assert found[byte] == pytest.approx(ratio * value, rel=1e-3), chr(byte)


@pytest.mark.parametrize("family", FAMILIES)
def test_tolerance_changes_little(models, family):
    model, files = models[family]
    text = "the mill by the river"
    bits = [ByteEnsemble([ByteModel(model, files, tolerance=t)]).score(text)[0] for t in (0, 1e-2)]
    assert bits[1] == pytest.approx(bits[0], rel=0.01)


def test_the_cache_changes_nothing(models):
    model, files = models["byte-level"]
    text = "the river the mill"
    read = ByteModel(model, files, tolerance=0)
    ByteEnsemble([read]).read(text.encode())
    again = ByteModel(model, files, tolerance=0)
    for byte in text.encode():
        again.append(byte)
        again._runs._cache = None  # every run from the beginning
    assert np.allclose(read.log_probabilities(), again.log_probabilities(), atol=1e-4)
    assert read.num_runs < 3 * len(text)


@pytest.mark.parametrize("flag", AROUND)
def test_added_tokens_that_depend_on_the_text_around_them_are_ordinary_text(models, built_families, load, flag):
    """Their text can be read, and each text has the probability that it has without them."""
    model, plain = models["byte-level"]
    definition, config = built_families["byte-level"]
    entries = [{**entry, flag: entry["content"] == "<tool>"} for entry in definition["added_tokens"]]
    files = load({**definition, "added_tokens": entries}, config)
    without = load({**definition, "added_tokens": [e for e in entries if e["content"] != "<tool>"]}, config)
    text = "a  <tool>  b<tool>c"
    assert Canonical(files).encode(text.encode()) == Canonical(without).encode(text.encode())
    bits = [ByteEnsemble([ByteModel(model, each, tolerance=0)]).score(text)[0] for each in (files, without)]
    assert bits[0] == pytest.approx(bits[1])
    assert Canonical(files).encode(b"<tool>") != Canonical(plain).encode(b"<tool>")


@settings(max_examples=40)
@given(
    text=st.one_of(st.sampled_from(CORPUS), st.text(min_size=1, max_size=12)),
    family=st.sampled_from(FAMILIES),
    data=st.data(),
)
def test_every_beginning_of_an_encoding_is_canonical(zoo, text, family, data):
    canonical = Canonical(zoo[family])
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    ids = canonical.encode(content)
    if canonical.bytes_of(ids) != content:  # added tokens that take white space along
        return
    size = data.draw(st.integers(0, len(ids)))
    beginning = ids[:size]
    found = canonical.sequences(canonical.bytes_of(beginning))
    if len(text) < 12 and max(text) < "\u0800":  # beyond, only some endings of a character are tried
        assert beginning in found
    boundary = canonical.last_boundary(ids)
    assert canonical.encode(canonical.bytes_of(ids[boundary:])) == ids[boundary:]
    if size:
        place = canonical.last_boundary(beginning[:-1])
        if beginning in found:
            assert canonical.extend(beginning[place:-1], [beginning[-1]]).all()


def test_a_sequence_that_the_tokenizer_does_not_make_is_not_canonical(zoo):
    canonical = Canonical(zoo["byte-level"])
    (the,) = canonical.encode(b" the")
    single = [zoo["byte-level"].vocabulary.single_bytes[b] for b in b" the"]
    assert canonical.sequences(b" the") == {(the,)}
    assert canonical.extend((), [the]).tolist() == [True]
    assert canonical.extend(single[:3], single[3:]).tolist() == [False]


def test_endings():
    assert endings(b"a") == [b""]
    assert len(endings(b"a ")) == 6
    assert len(endings("é".encode()[:1])) == 64
    assert all(("é".encode()[:1] + e).decode() for e in endings("é".encode()[:1]))
    assert 30 < len(endings("日".encode()[:1])) <= 64
    assert 10 < len(endings("🙂".encode()[:1])) <= 64
    assert endings(b"\xff") == endings(b"a\x80") == []


# --- the mean of several -----------------------------------------------------------------------------


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_mean_by_hand(models, mean):
    members = [ByteModel(*models[f], tolerance=0) for f in ("byte-level", "gemma-style")]
    ensemble = ByteEnsemble(members, [1, 3], mean)
    ensemble.read(b"the")
    one, other = (np.exp(m.log_probabilities()) for m in members)
    expected = (one + 3 * other) / 4 if mean == "arithmetic" else one**0.25 * other**0.75
    assert np.allclose(np.exp(ensemble.log_probabilities()), expected / expected.sum(), atol=1e-9)


def test_scores_add_up(models):
    members = [ByteModel(*models[f], tolerance=0) for f in ("byte-level", "gemma-style")]
    total, each = ByteEnsemble(members).score("the mill")
    alone = [ByteEnsemble([m]).score("the mill")[0] for m in members]
    assert each.tolist() == pytest.approx(alone)
    assert total < max(alone)
    bits = 0.0
    ensemble = ByteEnsemble(members)
    ensemble.reset()
    for byte in b"the mill":
        bits -= float(ensemble.log_probabilities()[byte]) / math.log(2)
        ensemble.read(bytes([byte]))
    assert total == pytest.approx(bits)


def test_generation_starts_inside_a_token_and_is_repeatable(models):
    ensemble = ByteEnsemble([ByteModel(*models["byte-level"]), ByteModel(*models["sentencepiece-bpe"])])
    made = ensemble.generate("the riv", 5)
    assert 0 < len(made) <= 5
    assert ensemble.generate("the riv", 5) == made
    sampled = [ensemble.generate("the riv", 5, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_the_end_is_an_outcome(models):
    model = ByteModel(*models["byte-level"], tolerance=0)
    ByteEnsemble([model]).read(b"the river")
    assert 0 < math.exp(model.log_probabilities()[EOS]) < 1
    assert math.exp(model.log_probability(EOS)) == pytest.approx(math.exp(model.log_probabilities()[EOS]))


# --- what cannot be right is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "reason"), [("unigram", "its tokenizer is Unigram"), ("wordpiece", "its tokenizer is WordPiece")]
)
def test_other_models_are_refused(zoo, family, reason):
    with pytest.raises(TokenAdaptError, match=reason):
        Canonical(zoo[family])


def test_parts_that_change_the_text_are_refused(load, built_families):
    definition, config = built_families["byte-level"]
    with pytest.raises(TokenAdaptError, match="its normalizer Lowercase changes the text"):
        Canonical(load({**definition, "normalizer": {"type": "Lowercase"}}, config))
    split = {"type": "Split", "pattern": {"Regex": r"\d(?=\d\d\d)"}, "behavior": "Isolated", "invert": False}
    sequence = {"type": "Sequence", "pretokenizers": [split, tokenizers_zoo.BYTE_LEVEL]}
    with pytest.raises(TokenAdaptError, match="looks further ahead"):
        Canonical(load({**definition, "pre_tokenizer": sequence}, config))


def test_bytes_that_are_no_text_are_refused(models):
    model = ByteModel(*models["byte-level"], tolerance=0)
    with pytest.raises(TokenAdaptError, match="0xFF after"):
        model.append(0xFF)
