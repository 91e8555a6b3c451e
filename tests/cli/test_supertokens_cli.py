"""The commands `supertokens train`, `extend` and `report`, as a user runs them."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner
from sentences import SENTENCES
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.plan_files import load_plan


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["supertokens", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "texts"
    folder.mkdir()
    for n, sentence in enumerate(SENTENCES):
        (folder / f"{n}.txt").write_text(f"{sentence}\n" * 40, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("model") / "base")


def test_help():
    listed = run("--help").output
    for command in ("train", "extend", "report"):
        assert command in listed
        assert "Examples:" in run(command, "--help").output


def test_train_to_a_model(text, base, tmp_path):
    out, model = tmp_path / "tokenizer", tmp_path / "model"
    run("train", out, "--text", text, "--vocab-size", 560, "--onto", base, model, "--method", "mean", "--quiet")
    tokenizer, transformer = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(model)
    sentence = "At the end of the day, the river."
    ids = tokenizer(sentence, return_tensors="pt").input_ids
    assert ids[0].tolist() == load_tokenizer(str(out)).fast_tokenizer().encode(sentence).ids
    assert tokenizer.decode(ids[0]) == sentence
    assert tokenizer.eos_token == "<|im_end|>"  # --like is MODEL by default
    assert tokenizer.chat_template == load_tokenizer(str(base)).chat_template
    assert transformer(ids).logits.shape == (1, ids.shape[1], 560)
    manifest = json.loads((out / "supertokens.json").read_text())
    assert manifest["algorithm"] == "superwords"
    assert manifest["text"]["documents"] == len(SENTENCES)


def test_pieces_of_supertokens_are_their_true_text(text, base, tmp_path):
    """The row of " of the" is made of " of" and " the"."""
    out, model = tmp_path / "tokenizer", tmp_path / "model"
    run("extend", base, out, "--text", text, "--add", 60, "--onto", base, model, "--method", "mean", "--quiet")
    old, new = load_tokenizer(str(base)).vocabulary, load_tokenizer(str(out)).vocabulary
    token = new.find(" of the")
    assert token is not None
    assert token.id >= old.num_ids
    made_of = load_plan(model / "tokenadapt.plan").explain(token.id)
    pieces = b"".join(old.by_id[i].bytes for i, _ in made_of)
    assert sorted(pieces) == sorted(b" of the")


def test_extend_prints_the_recipe(text, base, tmp_path):
    onto = ("--onto", base, tmp_path / "model", "--method", "global", "-O", "top_k=5", "--print-recipe")
    done = run("extend", base, tmp_path / "out", "--text", text, "--add", 20, "--drop", *onto)
    assert "20 tokens added, 20 dropped" in done.stderr
    recipe = yaml.safe_load(done.stdout)
    assert recipe["tokenizer"] == {
        "source": str(tmp_path / "out"),
        "adapt": {"method": "global", "auxiliary": "ngram", "top_k": 5},
    }
    assert not (tmp_path / "model").exists()


def test_report(text, base, tmp_path):
    run("extend", base, tmp_path / "out", "--text", text, "--add", 60, "--quiet")
    arguments = ("report", tmp_path / "out", "--against", base, "--text", f"own={text}", "--builtin", "hard")
    found = json.loads(run(*arguments, "--json").stdout)
    one, other = found["tokenizers"]
    own, old = (t["compression"]["own"] for t in (one, other))
    assert own["tokens"] < old["tokens"]
    assert own["bytes_per_token"] == pytest.approx(own["bytes"] / own["tokens"])
    assert own["supertoken_share"] > 0 == old["supertoken_share"]
    assert one["compression"]["hard"]["exact_round_trips"] == other["compression"]["hard"]["exact_round_trips"]
    assert one["safety"]["tokens_looked_at"] == 60
    assert one["safety"]["unreachable"]["number"] == 0
    assert one["safety"]["crossing"] == {}
    assert one["parity"]["en"] == 1
    shown = run(*arguments).stdout
    assert f"{100 * (own['tokens'] / old['tokens'] - 1):+.1f} %" in shown
    assert "never produced" in shown


def test_report_finds_what_is_not_safe(text, tmp_path):
    crossing = [f"--cross={name}" for name in ("digits", "lines", "sentences", "scripts")]
    run("train", tmp_path / "out", "--text", text, "--vocab-size", 1200, "--quiet", *crossing)
    safety = json.loads(run("report", tmp_path / "out", "--json").stdout)["tokenizers"][0]["safety"]
    assert {"digits", "lines", "sentences"} <= set(safety["crossing"])
    assert safety["crossing"]["lines"]["for_instance"]


def test_existing_output_is_not_overwritten(text, base, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep").write_text("me")
    for command in (("train", out, "--vocab-size", 400), ("extend", base, out, "--add", 5)):
        done = run(*command, "--text", text, code=2)
        assert "exists already; give another name, or --force" in done.output
    done = run("train", tmp_path / "new", "--vocab-size", 400, "--text", text, "--onto", base, out, code=2)
    assert "exists already" in done.output
    assert not (tmp_path / "new").exists()
    assert (out / "keep").read_text() == "me"
    done = run("extend", base, out, "--add", 5, "--text", text, "--force", "--quiet", code=2)
    assert "did not write it" in done.output
    assert (out / "keep").read_text() == "me"
    (out / "keep").unlink()  # an empty folder is nobody's
    run("extend", base, out, "--add", 5, "--text", text, "--force", "--quiet")
    run("extend", base, out, "--add", 6, "--text", text, "--force", "--quiet")
    assert json.loads((out / "supertokens.json").read_text())["add"] == 6


def test_a_run_that_ended_between_its_two_outputs_can_be_run_again(text, base, tmp_path):
    out, model = tmp_path / "tokenizer", tmp_path / "model"
    for learning in (("extend", base, out, "--add", 5), ("train", out, "--vocab-size", 400)):
        arguments = (*learning, "--text", text, "--onto", base, model, "--method", "mean", "--quiet")
        run(*arguments)
        before = [(f.name, f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(out.iterdir())]
        shutil.rmtree(model)
        training = [("--vocab-size", 401), ("--digits", "1"), ("--special", "<x>")]
        for other in [("--add", 6), ("--drop",)] if learning[0] == "extend" else training:
            assert "exists already, with another tokenizer" in run(*arguments, *other, code=2).output
        run(*arguments)
        assert [(f.name, f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(out.iterdir())] == before
        assert "exists already" in run(*arguments, code=2).output, "nothing is left to do"
        assert "exists already" in run(*learning, "--text", text, code=2).output, "one output"
        for folder in (out, model):
            shutil.rmtree(folder)


def test_a_finished_half_made_of_another_text_is_kept(base, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the river of the mill and the stone of the mill\n" * 40)
    arguments = ("extend", base, tmp_path / "tokenizer", "--add", 5, "--text", text, "--onto", base, tmp_path / "model")
    run(*arguments, "--method", "mean", "--quiet")
    shutil.rmtree(tmp_path / "model")
    before = (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    text.write_text("another text altogether, and again another text altogether\n" * 40)
    assert "exists already" in run(*arguments, "--method", "mean", "--quiet", code=2).output
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_two_outputs_that_are_one_are_refused(text, base, tmp_path):
    for model in (tmp_path / "out", tmp_path / "out" / "model", tmp_path):
        arguments = ("--add", 5, "--text", text, "--onto", base, model)
        done = run("extend", base, tmp_path / "out", *arguments, code=2)
        assert "are both written" in done.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab-size", "100"], "a vocabulary of 100 tokens is too small"),
        (["--vocab-size", "400", "--algorithm", "chunks", "--chunk-length", "4=0.5"], "add up to 0.5000"),
        (["--vocab-size", "400", "--chunk-length", "x=0.5"], "--chunk-length"),
        (["--vocab-size", "400", "--like", "/no/such"], "no tokenizer found at '/no/such'"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, text, tmp_path):
    done = run("train", tmp_path / "out", "--text", text, *arguments, code=2)
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_bases_that_cannot_be_extended_are_one_line(text, wordpiece_folder, unigram_folder, tmp_path):
    for folder in (wordpiece_folder, unigram_folder):
        done = run("extend", folder, tmp_path / "out", "--text", text, "--add", 5, code=2)
        assert "only BPE can be extended" in done.output
        assert not (tmp_path / "out").exists()
