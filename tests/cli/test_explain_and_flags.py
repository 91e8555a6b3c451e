"""`explain` with wrong and special tokens, and one flag for every key of a recipe."""

import json

import pytest
import yaml
from click.testing import CliRunner

from mergekit_tokenadapt.cli.explain import explain_command
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.cli.plan import plan_command
from mergekit_tokenadapt.cli.transplant import transplant_command
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.token_lookup import find_token, nearest_tokens
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("flags") / "base")


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)


def explained(*args):
    result = run("explain", *args, "--quiet", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def new_tokens(base, target, method="mean"):
    from mergekit_tokenadapt.cli.base_model import make_transfer

    transfer = make_transfer(str(base), str(target), {"method": method}, quiet=True)
    return [t for t in transfer.new_tokens if t.text and len(t.text) > 2 and not t.spans_words]


# --- explain


def test_one_bad_token_does_not_stop_the_others(base, gemma_style_folder):
    asked = ["--token", "a", "--token", "no such token", "--id", "999999", "--id", "3", "--token", "<eos>"]
    result = run("explain", base, gemma_style_folder, *asked, "--method", "mean", "--quiet")
    assert result.exit_code == 2
    assert '"a" (id ' in result.stdout
    assert '"<eos>" (id ' in result.stdout
    assert "(id 3)" in result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "'no such token' is not one token of" in errors[0]
    assert "it is segmented into " in errors[0]
    assert "id 999999: the output has the rows 0 to " in errors[1]
    good = json.loads(run("explain", base, gemma_style_folder, *asked, "--method", "mean", "--json").stdout)
    assert [r["text"] for r in good if r["id"] != 3] == ["a", "<eos>"]


def test_all_bad_tokens_are_errors_and_nothing_else(base, gemma_style_folder):
    result = run("explain", base, gemma_style_folder, "--token", "no such token", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == []


def test_without_a_token_there_is_nothing_to_explain(base, gemma_style_folder):
    result = run("explain", base, gemma_style_folder)
    assert result.exit_code == 2
    assert "give a --token or an --id" in result.output


def test_the_nearest_tokens_are_offered(zoo):
    tokenizer = zoo["byte-level"]
    words = [t for t in tokenizer.vocabulary if t.text and t.text.strip().isalpha() and len(t.text.strip()) > 3]
    texts = {t.text for t in words}
    for word in words[:: max(1, len(words) // 40)]:
        assert word.text is not None
        spaced = word.text.strip() if word.text.startswith(" ") else f" {word.text}"
        for slip in (spaced, word.text.upper(), word.text[:-2] + word.text[-1], word.text + "x"):
            if slip in texts:
                continue
            assert word in nearest_tokens(tokenizer.vocabulary, slip) or len(slip.strip()) < 4


def test_what_explain_prints_can_be_asked_for_again(zoo):
    for family in ("byte-level", "gemma-style", "wordpiece", "unigram"):
        for token in list(zoo[family].vocabulary)[::7]:
            from mergekit_tokenadapt.terminal.tables import quoted

            printed = quoted(token.label)[1:-1]
            found = find_token(zoo[family], printed)
            assert found.bytes == token.bytes, (family, printed)


def test_a_part_of_a_character_and_a_control_character_are_found(zoo):
    assert find_token(zoo["byte-level"], "\\xe4").bytes == b"\xe4"
    assert find_token(zoo["byte-level"], "\\n").text == "\n"
    with pytest.raises(TokenAdaptError, match="is not one token of"):
        find_token(zoo["byte-level"], "\\q no")


def test_calibrated_names_the_neighbours_and_what_the_weights_are(base, gemma_style_folder):
    from mergekit_tokenadapt.cli.base_model import make_transfer

    transfer = make_transfer(str(base), str(gemma_style_folder), {"method": "calibrated"}, quiet=True)
    plan = transfer.make_plan()
    places = {row: place for place, row in enumerate(plan.regression.new_ids.tolist())}
    token = next(t for t in transfer.new_tokens if t.id in places and t.text and len(t.text) > 3)
    (shown,) = explained(base, gemma_style_folder, "--id", token.id)
    facts = plan.regression.new
    assert [n["id"] for n in shown["neighbours"]] == facts.neighbours[places[token.id]].tolist()
    similarities = [n["similarity"] for n in shown["neighbours"]]
    assert similarities == pytest.approx(facts.similarities[places[token.id]].tolist(), abs=1e-4)
    assert "predicted" in shown["weights_are"]
    text = run("explain", base, gemma_style_folder, "--id", token.id, "--quiet").stdout
    old = load_tokenizer(str(base)).vocabulary.by_id
    assert all(old[n["id"]].label[-1] in text for n in shown["neighbours"])
    assert "cosine similarity of its nearest old tokens" in text
    assert "0% of the row in an input matrix" in text


def test_other_methods_say_that_the_row_is_a_sum(base, gemma_style_folder):
    token = new_tokens(base, gemma_style_folder)[0]
    (shown,) = explained(base, gemma_style_folder, "--id", token.id, "--method", "mean")
    assert shown["weights_are"].startswith("the row is the sum of these old rows")
    assert shown["neighbours"] == []


def test_a_row_without_a_token_is_explained(base, gemma_style_folder):
    num_ids = load_tokenizer(str(gemma_style_folder)).vocabulary.num_ids
    asked = ("--rows", num_ids + 5, "--id", num_ids + 4, "--method", "mean")
    (shown,) = explained(base, gemma_style_folder, *asked)
    assert (shown["text"], shown["reason"], shown["made_of"]) == (None, "padding", [])
    assert "no token (id " in run("explain", base, gemma_style_folder, *asked, "--quiet").stdout


# --- flags


@pytest.mark.parametrize("command", [transplant_command, plan_command, explain_command], ids=lambda c: c.name)
def test_every_key_of_a_recipe_has_a_flag(command):
    flags = {name for parameter in command.params for name in parameter.opts}
    assert flags >= {f"--{key.replace('_', '-')}" for key in AdaptConfig.model_fields}
    assert "--pad-to-multiple-of" in flags


def test_flags_are_the_recipe(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    flags = {
        "method": "hybrid", "auxiliary": "ngram:64", "rows": "700", "token-map": "<a>=<b>", "chat-template": "base",
        "calibration-text": str(tmp_path / "text.txt"), "calibration-bytes": "5000", "missing-rows": "base_model",
        "glossary": str(tmp_path / "text.txt"), "start-token": "base",
    }  # fmt: skip
    given = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    given += ["--extend", "tokens=9", "--extend", "text=words.txt", "--option", "top_k=5"]
    result = run("transplant", "b", "t", "out", *given, "--untie", "--no-save-plan", "--print-recipe")
    assert result.exit_code == 0, result.output
    block = yaml.safe_load(result.stdout)["tokenizer"]["adapt"]
    assert set(AdaptConfig.model_fields) <= block.keys()
    assert AdaptConfig.read(block) == AdaptConfig(
        method="hybrid", auxiliary="ngram:64", rows=700, token_map={"<a>": "<b>"}, chat_template="base",
        calibration_text=str(tmp_path / "text.txt"), calibration_bytes=5000, missing_rows="base_model", untie=True,
        save_plan=False, top_k=5, glossary=str(tmp_path / "text.txt"), start_token="base",
        extend={"tokens": 9, "text": "words.txt"},
    )  # fmt: skip
    assert block["rows"] == 700
    assert block["calibration_bytes"] == 5000


def test_defaults_are_those_of_the_recipe():
    result = run("transplant", "b", "t", "out", "--print-recipe")
    block = yaml.safe_load(result.stdout)["tokenizer"]["adapt"]
    assert block == {"method": "calibrated", "auxiliary": "ngram"}


@pytest.mark.parametrize("command", ["plan", "explain", "transplant"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rows", "many"], "rows: takes 'exact' or 'donor' or a whole number, not 'many'"),
        (["--calibration-bytes", "much"], "calibration_bytes: takes a whole number, not 'much'"),
        (["--missing-rows", "base"], "missing_rows: takes 'composed' or 'base_model', not 'base'"),
        (["--method", "meen"], "did you mean 'mean'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_told_in_the_same_words_by_every_command(command, flags, says, tmp_path):
    more = {"plan": [], "explain": ["--token", "x"], "transplant": [str(tmp_path / "out")]}[command]
    result = run(command, "nowhere", "nothing", *more, *flags)
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1].startswith("Error: ")
    assert says in result.output


def test_missing_rows_of_a_base_model_need_a_recipe_with_one(base, gemma_style_folder, tmp_path):
    result = run("transplant", base, gemma_style_folder, tmp_path / "out", "--missing-rows", "base_model")
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1] == "Error: missing_rows: base_model needs a base_model in the recipe"
    assert not (tmp_path / "out").exists()
    told = " ".join(run("transplant", "--help").output.split())
    assert "only composed is possible" in told


def test_plan_follows_rows_padding_untying_and_dtype(base, gemma_style_folder):
    def report(*flags):
        return json.loads(run("plan", base, gemma_style_folder, "--json", *flags).stdout)

    plain = report()
    assert report("--rows", "1000")["target_rows"] == 1000
    assert report("--pad-to-multiple-of", "64")["target_rows"] % 64 == 0
    untied = report("--untie")
    assert untied["vocabulary_parameters_after"] == 2 * plain["vocabulary_parameters_after"]
    assert untied["vocabulary_parameters_before"] == plain["vocabulary_parameters_before"]
    assert report("--dtype", "float64")["bytes_after"] == 2 * plain["bytes_after"]
    result = run("plan", base, gemma_style_folder, "--dtype", "bfloat61")
    assert result.exit_code == 2
    assert "is not one of 'float32'" in result.output
