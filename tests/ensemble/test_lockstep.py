"""Lockstep ensembles: the mean of probabilities, as a model of transformers."""

import inspect
import json
import shutil

import pytest
import torch
import transformers
from click.testing import CliRunner
from small_models import small_config, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.ensemble.build import make_lockstep
from mergekit_tokenadapt.ensemble.options import EnsembleOptions
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.cache_names import OUTPUT_NAME
from mergekit_tokenadapt.models.lockstep import LockstepConfig, LockstepForCausalLM

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")  # names that transformers is to drop


@pytest.fixture(scope="module")
def folders(tmp_path_factory, zoo_folders, tiny_model_folder):
    root = tmp_path_factory.mktemp("lockstep")
    one = tiny_model_folder(zoo_folders["gemma-style"], root / "one", rows=600)
    other = tiny_model_folder(zoo_folders["byte-level"], root / "other", tied=False, seed=1)
    arguments = ["ensemble", one, other, "--out", root / "pair", "--method", "mean", "--weight", 1, "--weight", 3]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    geometric = shutil.copytree(root / "pair", root / "geometric")
    config = json.loads((geometric / "config.json").read_text())
    (geometric / "config.json").write_text(json.dumps({**config, "mean": "geometric"}))
    return {"one": one, "other": other, "pair": root / "pair", "geometric": geometric}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def test_logits_are_the_log_of_the_mean(folders):
    ids = torch.tensor([[2, 300, 310, 320, 330]])
    one, other = (load(folders["pair"] / "members" / n) for n in ("0", "1"))
    config = json.loads((folders["pair"] / "config.json").read_text())
    assert config["padding_ids"]
    said = []
    for member in (one, other):
        logits = member(ids).logits
        logits[..., config["padding_ids"]] = -torch.inf
        said.append(logits.softmax(-1))
    arithmetic = load(folders["pair"])(ids).logits.exp()
    assert torch.allclose(arithmetic, 0.25 * said[0] + 0.75 * said[1], atol=1e-6)
    product = said[0] ** 0.25 * said[1] ** 0.75
    geometric = load(folders["geometric"])(ids).logits.exp()
    assert torch.allclose(geometric, product / product.sum(-1, keepdim=True), atol=1e-6)
    for average in (arithmetic, geometric):
        assert average[..., config["padding_ids"]].sum() == 0
        assert torch.allclose(average.sum(-1), torch.ones(1, 5), atol=1e-5)


def test_the_first_member_is_as_it_was(folders):
    one, member = (load(f).state_dict() for f in (folders["one"], folders["pair"] / "members/0"))
    assert all(torch.equal(one[name], member[name]) for name in one)


@pytest.mark.parametrize("kind", ["pair", "geometric"])
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_with_cache_is_generation_without(folders, kind, how):
    ensemble, ids = load(folders[kind]), torch.tensor([[2, 300, 310]])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **how}
    cached = ensemble.generate(ids, **settings)
    assert cached.shape == (1, 15)
    assert torch.equal(cached, ensemble.generate(ids, **settings, use_cache=False))


def test_what_the_cache_has_seen_is_not_read_again(folders, monkeypatch):
    ensemble, read = load(folders["pair"]), []
    forward = ensemble.members[1].forward

    def counted(input_ids, **more):
        read.append(input_ids.shape[1])
        return forward(input_ids, **more)

    counted.__signature__ = inspect.signature(forward)  # the name of the cache is read from it
    monkeypatch.setattr(ensemble.members[1], "forward", counted)
    ensemble.generate(
        torch.tensor([[2, 300, 310]]), max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert read == [3, 1, 1, 1]


def test_padding_on_the_left_changes_nothing(folders):
    ensemble = load(folders["pair"])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = ensemble.generate(torch.tensor([[2, 300]]), **settings)
    ids = torch.tensor([[0, 0, 2, 300], [2, 310, 320, 330]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    padded = ensemble.generate(ids, attention_mask=mask, **settings)
    assert padded[0, 2:].tolist() == plain[0].tolist()


def test_save_and_load(folders, tmp_path):
    ensemble = load(folders["pair"])
    ensemble.save_pretrained(tmp_path / "saved")
    again = LockstepForCausalLM.from_pretrained(str(tmp_path / "saved"))
    ids = torch.tensor([[2, 300, 310]])
    assert torch.equal(ensemble(ids).logits, again(ids).logits)
    assert ensemble(ids, labels=ids).loss.item() > 0


def test_the_evaluation_takes_it_for_one_more_model(folders):
    names = [str(folders[n]) for n in ("one", "other", "pair")]
    arguments = ["compare", *names, "--builtin", "en", "--max-bytes", "300", "--json", "--quiet"]
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert [m["name"] for m in models] == names
    bits = [m["all"]["bits_per_byte"] for m in models]
    assert all(0 < b < 20 for b in bits)
    tokenizer = AutoTokenizer.from_pretrained(folders["pair"])
    assert len(tokenizer("the river").input_ids) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": 1}, "two models or more"),
        ({"weights": [1.0]}, "1 weights for 2 models"),
        ({"weights": [1.0, 0.0]}, "weights.1: takes a number greater than 0"),
        ({"target": 2}, "numbered from 0"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(folders, tmp_path, change, message):
    models = [str(folders["one"]), str(folders["other"])][: change.pop("models", 2)]
    with pytest.raises(TokenAdaptError, match=message):
        make_lockstep(models, str(tmp_path / "out"), {"method": "mean"}, EnsembleOptions(**change))
    assert not (tmp_path / "out").exists()


def test_checking_an_ensemble_says_what_to_do(folders):
    result = CliRunner().invoke(evaluate, ["check", str(folders["pair"])])
    assert result.exit_code == 2
    assert "is an ensemble" in result.output
    assert len(result.output.strip().splitlines()) == 1


# --- the command, byte by byte -----------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, ["ensemble", *map(str, arguments)])


def test_byte_by_byte_command(folders, tmp_path):
    (tmp_path / "text.txt").write_text("the river and the mill")
    pair = folders["one"], folders["other"]
    result = run(*pair, "--text", f"t={tmp_path / 'text.txt'}", "--max-bytes", 10)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    one, other, together = (float(line.split()[0]) for line in lines[:3])
    assert together < max(one, other)
    result = run(folders["one"], "--prompt", "the riv", "--max-bytes", 3)
    assert result.exit_code == 0
    assert result.stdout.startswith("the riv")


def test_the_command_wants_one_thing(folders):
    assert "give one of --out" in run(folders["one"]).output


def test_a_tokenizer_that_cannot_be_asked_for_bytes_is_named(zoo_folders, tiny_model_folder, tmp_path):
    model = tiny_model_folder(zoo_folders["wordpiece"], tmp_path / "model")
    result = run(model, "--prompt", "a")
    assert result.exit_code == 2
    assert "its tokenizer is WordPiece" in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["RobertaForCausalLM", "XLMRobertaForCausalLM", "XGLMForCausalLM", "OPTForCausalLM"])
@torch.no_grad()
def test_members_that_count_positions_in_their_own_way(name):
    model_class = getattr(transformers, name)
    config = small_config(model_class.config_class, 300, is_decoder=True, pad_token_id=1)
    model = small_model(model_class, config)
    ensemble = LockstepForCausalLM(LockstepConfig(vocab_size=300, members=["a"], weights=[1.0]), [model]).eval()
    ids = torch.tensor([[2, 30, 31, 40, 50]])
    expected = model(ids, use_cache=False).logits.log_softmax(-1)
    torch.testing.assert_close(ensemble(ids).logits, expected, rtol=0, atol=1e-5)
    first = ensemble(ids[:, :3], use_cache=True)
    rest = ensemble(ids[:, 3:], past_key_values=first[OUTPUT_NAME], use_cache=True)
    torch.testing.assert_close(rest.logits, expected[:, 3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pair", "geometric"])
def test_gradients_are_finite_where_ids_have_no_token(folders, kind):
    ensemble = load(folders[kind])
    assert ensemble.config.padding_ids
    ids = torch.tensor([[2, 300, 310, 320]])
    ensemble(ids, labels=ids).loss.backward()
    gradients = [p.grad for p in ensemble.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_ensemble_is_no_member_of_a_byte_by_byte_one(folders):
    result = CliRunner().invoke(main, ["ensemble", str(folders["pair"]), "--prompt", "The", "--max-bytes", "2"])
    assert result.exit_code == 2, result.output
    assert "is a lockstep ensemble: name its members instead" in result.output
