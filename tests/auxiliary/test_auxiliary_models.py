"""Embedding models as auxiliary spaces, and the cache of their vectors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mergekit_tokenadapt.auxiliary import cached, find_auxiliary
from mergekit_tokenadapt.auxiliary.cached import CachedSpace
from mergekit_tokenadapt.auxiliary.transformer import TransformerSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.storage.shards import CACHE_VARIABLE

TEXTS = ["a", " and the", "hello", "the longest of all these texts", "é", "🙂"]
CPU = torch.device("cpu")


@pytest.fixture
def encoder(tmp_path, wordpiece_folder):
    """A tiny BERT folder."""
    from transformers import BertConfig, BertModel

    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    folder = tmp_path / "encoder"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=load_tokenizer(str(wordpiece_folder)).vocabulary.num_ids,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    for file in wordpiece_folder.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_other_weights_in_pytorch_files_are_another_model(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (file,) = encoder.glob("*.safetensors")
    weights = load_file(str(file))
    file.unlink()
    vectors = []
    for factor in (1, -3):
        torch.save({name: factor * tensor for name, tensor in weights.items()}, encoder / "pytorch_model.bin")
        vectors.append(TransformerSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True))
    assert not torch.allclose(*vectors)


def test_an_encoder_that_cannot_embed_is_one_line(encoder):
    (encoder / "config.json").write_text("{}")
    with pytest.raises(TokenAdaptError, match="cannot embed the texts"):
        TransformerSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)


class CountingSpace(CachedSpace):
    """Counts how often it computes."""

    computed = 0

    @classmethod
    def from_argument(cls, argument):
        return cls(argument)

    def compute(self, folder, texts, *, device, quiet):
        CountingSpace.computed += 1
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_mean_pooling_is_the_mean_over_real_tokens(encoder):
    from transformers import AutoModel, AutoTokenizer

    vectors = find_auxiliary(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    tokenizer, model = AutoTokenizer.from_pretrained(str(encoder)), AutoModel.from_pretrained(str(encoder)).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):  # one by one: no padding at all
        with torch.inference_mode():
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-5)


def test_where_there_is_no_terminal_there_is_no_bar(encoder, capfd):
    find_auxiliary(str(encoder)).embed(TEXTS, device=CPU, quiet=False)
    assert capfd.readouterr().err == ""


def test_vectors_are_computed_once_and_read_back_bit_for_bit(encoder, cache):
    CountingSpace.computed = 0
    first = CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    second = CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    assert CountingSpace.computed == 1
    assert torch.equal(first, second)
    (file,) = cache.glob("*.safetensors")
    assert torch.equal(load_file(str(file))["vectors"], first)


def test_other_texts_or_another_model_are_not_mistaken_for_cached_ones(encoder):
    CountingSpace.computed = 0
    CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    CountingSpace(str(encoder)).embed([*TEXTS, "more"], device=CPU, quiet=True)
    CountingSpace(str(encoder)).embed(["ab", "c"], device=CPU, quiet=True)
    CountingSpace(str(encoder)).embed(["a", "bc"], device=CPU, quiet=True)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "other": 1}))
    CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    assert CountingSpace.computed == 5


def test_a_run_that_was_stopped_goes_on(encoder, cache, monkeypatch):
    monkeypatch.setattr(cached, "SHARD", 2)
    texts = [*TEXTS, "a", "bc", "def"]
    whole = CountingSpace(str(encoder))._in_shards(encoder, texts, None, device=CPU, quiet=True)
    assert torch.equal(whole, torch.tensor([[float(len(text)), 1.0] for text in texts]))

    class Stopping(CountingSpace):
        stops = True

        def compute(self, folder, texts, *, device, quiet):
            if self.stops and CountingSpace.computed == 2:
                raise KeyboardInterrupt
            return super().compute(folder, texts, device=device, quiet=quiet)

    CountingSpace.computed = 0
    space = Stopping(str(encoder))
    with pytest.raises(KeyboardInterrupt):
        space.embed(texts, device=CPU, quiet=True)
    assert len(list(cache.glob("*/*.safetensors"))) == 2
    space.stops = False
    assert torch.equal(space.embed(texts, device=CPU, quiet=True), whole)
    assert CountingSpace.computed == 5
    assert not list(cache.glob("*/"))


def test_a_damaged_cache_file_is_computed_again(encoder, cache, caplog):
    CountingSpace.computed = 0
    first = CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:30])
    assert torch.equal(CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True), first)
    assert CountingSpace.computed == 2
    assert "damaged" in caplog.text


def test_a_cache_that_cannot_be_made_is_done_without(encoder, cache, caplog):
    cache.write_text("a file where the folder should be")
    assert len(CountingSpace(str(encoder)).embed(TEXTS, device=CPU, quiet=True)) == len(TEXTS)
    assert "not cached" in caplog.text


def test_two_processes_may_share_the_cache(encoder, cache, stock, tmp_path):
    """Both forks of one process start before either has made anything."""
    code = f"""
import json, os
from pathlib import Path
import torch
from mergekit_tokenadapt.auxiliary.transformer import TransformerSpace
for n in range(2):
    if os.fork() == 0:
        vectors = TransformerSpace({str(encoder)!r}).embed({TEXTS!r}, device=torch.device("cpu"), quiet=True)
        Path({str(tmp_path)!r}, f"{{n}}.json").write_text(json.dumps(vectors.tolist()))
        os._exit(0)
print([os.waitstatus_to_exitcode(os.wait()[1]) for n in range(2)])
"""
    said = stock.python(tmp_path, code, env={"MERGEKIT_TOKENADAPT_CACHE": str(cache)})
    assert said.splitlines()[-1] == "[0, 0]", said
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert first == second
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert not list(cache.glob("*.tmp"))


def test_a_model2vec_folder_is_recognised(tmp_path, wordpiece_folder, capfd):
    model2vec = pytest.importorskip("model2vec")
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(wordpiece_folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    folder = tmp_path / "static"
    model = model2vec.StaticModel(vectors, tokenizer)
    model.save_pretrained(str(folder))
    embedded = find_auxiliary(str(folder)).embed(TEXTS, device=CPU, quiet=False)
    assert capfd.readouterr().err == "", "no bar where there is no terminal"
    assert embedded.shape == (len(TEXTS), 16)
    torch.testing.assert_close(embedded, torch.from_numpy(model.encode(TEXTS)).float())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "unknown auxiliary 'nothing': not one of .*ngram"),
        ("transformer", "needs a model"),
        ("./missing/folder", "unknown auxiliary"),
        ("sentence-transformers", "needs a model"),
    ],
)
def test_names_that_lead_nowhere(name, says):
    with pytest.raises(TokenAdaptError, match=says):
        find_auxiliary(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(TokenAdaptError, match="holds no embedding model"):
        find_auxiliary(str(tmp_path))


def test_a_hub_id_that_cannot_be_fetched_is_one_line():
    space = TransformerSpace.from_argument("nobody/nothing")
    with pytest.raises(TokenAdaptError, match="is not a folder, and could not be fetched") as caught:
        space.embed(TEXTS, device=CPU, quiet=True)
    assert "\n" not in str(caught.value)
