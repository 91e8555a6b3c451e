"""A user's mistake: one clear line, exit code 2, no output folder, no traceback."""

import json
import shutil

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from mergekit_tokenadapt.cli.main import main


@pytest.fixture
def base(tmp_path, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path / "base")


def run(*args, catch=True):
    """The command, as from a shell."""
    return CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=catch)


def assert_one_line(result, *parts):
    """The last line is the error, and it says all `parts`."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    error = result.output.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    for part in parts:
        assert part in error
    assert "Traceback" not in result.output


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def not_a_tokenizer(folder):
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')


def broken_json(folder):
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": ')


def empty(folder):
    folder.mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no tokenizer found at"),
        (empty, "holds no tokenizer.json"),
        (not_a_tokenizer, "is not a tokenizer that `tokenizers` can read"),
        (broken_json, "is not valid JSON"),
    ],
    ids=["missing", "empty folder", "not a tokenizer", "broken JSON"],
)
def test_targets_that_are_no_tokenizers(tmp_path, base, make, says):
    make(tmp_path / "target")
    result = run("transplant", base, tmp_path / "target", tmp_path / "out", "--quiet")
    assert_one_line(result, says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "magic"], ["unknown method 'magic'", "hybrid", "mean"]),
        (["--auxiliary", "magic"], ["unknown auxiliary 'magic'", "ngram"]),
        (["-O", "top_k=0"], ["top_k", "greater than or equal to 1"]),
        (["--method", "hybrid", "-O", "global_weight=1.5"], ["global_weight", "less than or equal to 1", "1.5"]),
        (["--method", "hybrid", "-O", "temperatur=1"], ["unknown option 'temperatur'", "temperature"]),
        (["--token-map", "<nothing>=<at all>"], ["token_map", "<nothing>"]),
        (["--rows", "3"], ["rows: 3", "at least"]),
        (["--rows", "donor"], ["rows: donor", "config.json"]),
        (["--chat-template", "nowhere.jinja"], ["chat_template", "nowhere.jinja"]),
        (["--auxiliary", "ngram:many"], ["ngram:many", "dimensions"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("-") else "",
)
def test_options_that_cannot_be(tmp_path, base, unigram_folder, options, says):
    result = run("transplant", base, unigram_folder, tmp_path / "out", "--quiet", *options)
    assert_one_line(result, *says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "auxiliary", "extra"),
    [("sentence_transformers", "some/model", "[embed]"), ("model2vec", "model2vec:some/model", "[model2vec]")],
)
def test_an_extra_that_is_not_installed_is_named(
    tmp_path, base, unigram_folder, monkeypatch, package, auxiliary, extra
):
    import mergekit_tokenadapt.extensions.extras as extras

    real = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else real(name))
    result = run("transplant", base, unigram_folder, tmp_path / "out", "--quiet", "--auxiliary", auxiliary)
    assert_one_line(result, package, f"pip install 'mergekit-tokenadapt{extra}'")
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_not_there(tmp_path, unigram_folder):
    assert_one_line(run("transplant", tmp_path / "none", unigram_folder, tmp_path / "out"), "no model found")
    (tmp_path / "none").mkdir()
    assert_one_line(run("transplant", tmp_path / "none", unigram_folder, tmp_path / "out"), "no config.json")
    assert not (tmp_path / "out").exists()


def test_a_base_without_weights(tmp_path, base, unigram_folder):
    (base / "model.safetensors").unlink()
    assert_one_line(run("transplant", base, unigram_folder, tmp_path / "out"), "holds no weights")


def test_a_truncated_base(tmp_path, base, unigram_folder):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:4000])
    assert_one_line(run("transplant", base, unigram_folder, tmp_path / "out"), "no model found", "Error")
    assert not (tmp_path / "out").exists()


def test_a_quantised_base(tmp_path, base, unigram_folder):
    edit_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert_one_line(run("transplant", base, unigram_folder, tmp_path / "out", "--quiet"), "quantised checkpoint")
    assert not (tmp_path / "out").exists()


def test_a_base_without_vocabulary_tensors(tmp_path, base, unigram_folder):
    tensors = load_file(str(base / "model.safetensors"))
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, str(base / "model.safetensors"))
    result = run("transplant", base, unigram_folder, tmp_path / "out", "--quiet")
    assert_one_line(result, "no tensor with a vocabulary axis")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists(tmp_path, base, unigram_folder):
    (tmp_path / "out").mkdir()
    assert_one_line(run("transplant", base, unigram_folder, tmp_path / "out"), "exists already", "--force")
    assert list((tmp_path / "out").iterdir()) == []


def test_models_of_different_hidden_sizes(tmp_path, base, byte_level_folder, unigram_folder):
    from mergekit.options import MergeOptions
    from transformers import LlamaConfig, LlamaForCausalLM

    from mergekit_tokenadapt.errors import TokenAdaptError
    from mergekit_tokenadapt.plugin.transplant import run_recipe

    wide = tmp_path / "wide"
    shutil.copytree(byte_level_folder, wide)
    config = LlamaConfig.from_pretrained(str(base), hidden_size=64)
    LlamaForCausalLM(config).save_pretrained(wide)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (base, wide)],
        "tokenizer": {"source": str(unigram_folder), "adapt": {"method": "mean"}},
    }
    with pytest.raises(TokenAdaptError, match="different hidden sizes"):
        run_recipe(recipe, str(tmp_path / "out"), MergeOptions(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        ({"adapt": {}}, "needs tokenizer.source"),
        ({"source": "union", "adapt": {}}, "needs tokenizer.source"),
        ({"source": "base", "tokens": {"a": {"source": "x"}}, "adapt": {}}, "token_map"),
        ({"source": "base", "adapt": {"rows": "many"}}, "rows"),
        ({"source": "base", "adapt": {"method": "mean", "top_k": 3}}, "unknown option 'top_k'"),
    ],
)
def test_recipes_that_cannot_be(tokenizer, says):
    import pydantic
    from mergekit.config import MergeConfiguration

    from mergekit_tokenadapt import activate

    activate()
    with pytest.raises(pydantic.ValidationError, match=says):
        MergeConfiguration.model_validate(
            {"merge_method": "passthrough", "models": [{"model": "m"}], "tokenizer": tokenizer}
        )


def test_remote_code_is_never_run_unasked(tmp_path, base, unigram_folder):
    touched = tmp_path / "touched"
    for folder in (base,):
        (folder / "evil.py").write_text(f"open({str(touched)!r}, 'w')\nclass Evil: pass\n")
        edit_json(
            folder / "config.json",
            model_type="evil",
            auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        )
    target = tmp_path / "target"
    target.mkdir()
    (target / "evil.py").write_text(f"open({str(touched)!r}, 'w')\nclass Evil: pass\n")
    (target / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    assert_one_line(run("transplant", base, unigram_folder, tmp_path / "out"), "no model found")
    assert_one_line(run("plan", base, target), "tokenizer")
    assert not touched.exists()
