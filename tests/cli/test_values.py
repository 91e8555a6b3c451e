"""Values of options and recipes are refused before anything slow: here, before models that are not even there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin import planner
from mergekit_tokenadapt.plugin.merge_options import merge_options
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe
from mergekit_tokenadapt.texts import parse_text, read_text

NO_MODEL = "./there/is/no/model"
TRANSPLANT = ("transplant", NO_MODEL, NO_MODEL, "out")
TRAIN = ("supertokens", "train", "--text", "text.txt", "--vocab-size", "300", "out")
EXTEND = ("supertokens", "extend", NO_MODEL, "--text", "text.txt", "out", "--add", "5")
COMPARE, HEAL, DRAFT = ("compare", NO_MODEL, NO_MODEL), ("probe-healing", NO_MODEL), ("draft", NO_MODEL, NO_MODEL)
ENSEMBLE = ("ensemble", NO_MODEL, NO_MODEL)

OURS = [
    ((*TRANSPLANT, "--dtype", "floaty"), "'floaty' is not one of 'float32'"),
    ((*TRANSPLANT, "--dtype", "int64"), "'int64' is not one of"),
    ((*TRANSPLANT, "--rows", "0"), "rows: takes 'exact' or 'donor' or a number greater than 0"),
    ((*TRANSPLANT, "--pad-to-multiple-of", "0"), "0 is not in the range"),
    ((*TRANSPLANT, "--method", "hybrid", "-O", "temperature=1e-40"), "temperature: takes a number greater than or"),
    ((*TRANSPLANT, "--method", "hybrid", "-O", "temperature=-1"), "temperature: takes a number greater than or"),
    ((*TRANSPLANT, "--method", "hybrid", "-O", "temperature=.inf"), "temperature: takes a finite number"),
    ((*TRANSPLANT, "--method", "hybrid", "-O", "global_weight=.nan"), "global_weight: takes a finite number"),
    ((*TRANSPLANT, "--method", "hybrid", "-O", "threshold=2"), "threshold: takes a number less than or equal to 1"),
    ((*TRANSPLANT, "-O", "top_k=["), "--option top_k=[: '[' is no YAML"),
    ((*TRANSPLANT, "--method", "omp", "-O", "k=0"), "k: takes a number greater than or equal to 1"),
    ((*TRANSPLANT, "-o", "top_k=5"), "OUT is given twice, as 'out' and as -o 'top_k=5' (options of the method are"),
    (("transplant", NO_MODEL, NO_MODEL), "Missing argument 'OUT' (or -o OUT)"),
    (("draft", NO_MODEL, NO_MODEL, "out", "--rows", "0"), "0 is not in the range"),
    (("draft", NO_MODEL, NO_MODEL, "out", "--dtype", "floaty"), "'floaty' is not one of"),
    ((*ENSEMBLE, "--prompt", "x", "--weight", "nan", "--weight", "1"), "nan is not a finite number"),
    ((*ENSEMBLE, "--prompt", "x", "--weight", "-1"), "-1.0 is not in the range"),
    ((*ENSEMBLE, "--prompt", "x", "--temperature", "inf"), "inf is not a finite number"),
    ((*ENSEMBLE, "--prompt", "x", "--seed", "-1"), "-1 is not in the range"),
    ((*ENSEMBLE, "--prompt", "x", "--weight", "1"), "1 weights for 2 models"),
    ((*ENSEMBLE, "--text", "nowhere.txt"), "--text takes NAME=PATH or PATH, and there is no file or folder"),
    ((*ENSEMBLE, "--out", "out", "--target", "2"), "--target 2: there are 2 models"),
    ((*ENSEMBLE, "--out", "out", "--max-bytes", "9"), "--max-bytes belongs to --prompt and --text"),
    ((*ENSEMBLE, "--prompt", "x", "--method", "mean"), "--method belongs to --out"),
    ((*ENSEMBLE, "--text", "text.txt", "--target", "1"), "--target belongs to --out"),
    ((*ENSEMBLE, "--text", "text.txt", "--temperature", "1"), "--temperature belongs to --prompt"),
    (("align", NO_MODEL, NO_MODEL, "law=nowhere", "out"), "law: there is no file or folder 'nowhere'"),
    ((*TRAIN, "--text", "nowhere"), "--text takes NAME=PATH or PATH, and there is no file or folder 'nowhere'"),
    ((*TRAIN, "--text", "empty.txt"), "--text empty: the text 'empty.txt' is empty"),
    ((*TRAIN, "--text", "own=image.png"), "--text own: 'image.png' contains zero bytes, so it is not a text"),
    ((*TRAIN, "--text", "folder"), "there is no text in folder"),
    ((*TRAIN, "--words-from", "inf"), "inf is not a finite number"),
    ((*TRAIN, "--max-memory", "nan"), "nan is not a finite number"),
    ((*TRAIN, "--special", ""), "a special token is empty"),
    ((*TRAIN, "--chunk-length", "4=nan"), "probabilities from 0 to 1"),
    ((*TRAIN, "--chunk-length", "4=many"), "--chunk-length takes LENGTH=PROBABILITY, two numbers"),
    ((*TRAIN, "--chunk-length", "4=1"), "--chunk-length does nothing with --algorithm superwords"),
    ((*TRAIN, "--algorithm", "chunks", "--word-share", "1"), "--word-share does nothing with --algorithm chunks"),
    ((*TRAIN, "--vocab-size", str(10**12)), "is too large"),
    ((*TRAIN, "--onto", NO_MODEL, "model"), f"there is no model folder '{NO_MODEL}'"),
    ((*TRAIN, "--onto", NO_MODEL, "model", "--method", "nothing"), "'nothing'"),
    ((*TRAIN, "--onto", NO_MODEL, "model", "-O", "top_k=0"), "top_k: takes a number greater than or equal to 1"),
    ((*EXTEND, "--text", "nowhere"), "--text takes NAME=PATH or PATH, and there is no file or folder 'nowhere'"),
    (("supertokens", "report", NO_MODEL, "--builtin", "x"), "there is no built-in text 'x'"),
]  # fmt: skip
EVALUATION = [
    ((*COMPARE, "--device", "cuda:77"), "--device 'cuda:77' cannot be used here"),
    ((*COMPARE, "--device", "gpu"), "--device 'gpu' cannot be used here"),
    ((*COMPARE, "--dtype", "float64"), "'float64' is not one of"),
    ((*COMPARE, "--seed", "-1"), "-1 is not in the range"),
    ((*COMPARE, "--builtin", "klingon"), "there is no built-in text 'klingon'"),
    ((*COMPARE, "--text", "nowhere"), "--text takes NAME=PATH or PATH, and there is no file or folder 'nowhere'"),
    ((*COMPARE, "--text", "="), "--text takes NAME=PATH or PATH (or hf:ID), not '='"),
    ((*COMPARE, "--html", "nowhere/page.html"), "there is no folder 'nowhere'"),
    ((*COMPARE, "--text", "text.txt", "--text", "text=text.txt"), "two texts have the name 'text'"),
    ((*COMPARE, "--window", "4", "--stride", "5"), "the stride must be between 1 and the window"),
    ((*HEAL, "--learning-rate", "nan"), "nan is not a finite number"),
    ((*HEAL, "--device", "cuda:77"), "--device 'cuda:77' cannot be used here"),
    ((*HEAL, "--text", "text.txt", "--batch-size", "1000"), "the text is too short to train on"),
    ((*DRAFT, "--temperature", "0"), "0.0 is not in the range"),
    ((*DRAFT, "--builtin", "klingon"), "there is no built-in text 'klingon'"),
    ((*DRAFT, "--new-tokens", "3"), "3 new tokens are too few for a round with 5"),
    (("tokenizer", NO_MODEL, "--builtin", "klingon"), "there is no built-in text 'klingon'"),
    (("tokenizer", NO_MODEL, "--reference", "tlh"), "there is no parallel text in 'tlh'"),
    (("tokenizer", NO_MODEL, "--morphemes", "tr=nowhere"), "nowhere"),
    (("tasks", NO_MODEL, "--tasks", ","), "--tasks names no task"),
    (("tasks", NO_MODEL, "--tasks", "arc_easy", "--include-path", "nowhere"), "'nowhere' does not exist"),
]
CASES = [(main, *case) for case in OURS] + [(evaluate, *case) for case in EVALUATION]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the end of the river is the end of the river\n" * 5)
    Path("short.txt").write_text("short")
    Path("empty.txt").write_text("")
    Path("image.png").write_bytes(b"\x89PNG\0\0")
    Path("folder").mkdir()
    Path("folder/image.png").write_bytes(b"\x89PNG\0\0")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("tool", "arguments", "message"), CASES, ids=[" ".join(case[1]).replace(NO_MODEL, "X") for case in CASES]
)
def test_a_bad_value_is_refused_before_the_models_are_looked_for(tool, arguments, message):
    result = CliRunner().invoke(tool, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not Path("out").exists()


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_arguments: object, **_options: object) -> None:
        raise AssertionError("an input was read")

    monkeypatch.setattr(planner, "look_at", read)
    monkeypatch.setattr(planner, "load_tokenizer", read)


@pytest.mark.usefixtures("here", "nothing_is_read")
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"dtype": "floaty"}, {}, "dtype: takes bfloat16, float16, float32 or float64, not 'floaty'"),
        ({"dtype": "int64"}, {}, "dtype: takes bfloat16"),
        ({"out_dtype": "floaty"}, {}, "out_dtype: takes bfloat16"),
        ({}, {"device": "cuda:77"}, "'cuda:77' cannot be used here"),
        ({"calibration_text": "nowhere"}, {}, "calibration_text text: there is no file or folder 'nowhere'"),
        ({"calibration_text": "short.txt"}, {}, "is too short"),
        ({"chat_template": "nowhere"}, {}, "chat_template: 'nowhere' is neither 'target' nor 'base' nor a file"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_recipe_is_refused_before_its_inputs_are_read(
    changes, options, message, tmp_path: Path, byte_level_folder: Path, tiny_model_folder: Callable[..., Path]
):
    base = tiny_model_folder(byte_level_folder, tmp_path / "base")
    dtypes = {key: changes[key] for key in ("dtype", "out_dtype") if key in changes}
    block = {"method": "mean"} | {key: value for key, value in changes.items() if key not in dtypes}
    recipe = make_recipe(str(base), str(byte_level_folder), block) | dtypes
    with pytest.raises(TokenAdaptError, match=message):
        run_recipe(yaml.safe_load(yaml.safe_dump(recipe)), str(tmp_path / "out"), merge_options(quiet=True, **options))


@pytest.mark.parametrize("option", ["top_k=99999999", "top_k=10000"])
def test_more_neighbours_than_tokens_are_refused(option, tmp_path, byte_level_folder, gemma_style_folder):
    result = CliRunner().invoke(
        main, ["explain", str(byte_level_folder), str(gemma_style_folder), "--token", "the", "--method", "hybrid",
               "-O", option],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "neighbours of a new token are more than the base vocabulary's" in result.output


@pytest.mark.usefixtures("here")
def test_texts_have_one_spelling():
    Path("a=b.txt").write_text("one")
    Path("lines.jsonl").write_text('{"body": "two"}\n')
    assert (read_text("a=b.txt").name, read_text("a=b.txt").documents) == ("a=b", ("one",))
    assert read_text("mine=a=b.txt").name == "mine"
    named, plain = read_text("own=lines.jsonl,field=body"), read_text("./lines.jsonl,field=body")
    assert (named.name, named.documents, named.source) == ("own", ("two",), "lines.jsonl,field=body")
    assert (plain.name, plain.documents) == ("lines", ("two",))
    assert parse_text("folder").name == "folder"
    assert parse_text("hf:owner/set,config=en").settings == {"config": "en"}
    assert parse_text("law=hf:owner/set").place == "hf:owner/set"


@pytest.mark.usefixtures("here")
def test_output_is_dash_o_everywhere():
    """The folder as an option is the folder as an argument."""
    for path in ("transplant", "draft", "distill-prep", "align", "restore", "ensemble"):
        assert "-o, --out" in CliRunner().invoke(main, [path, "--help"]).stdout
    for path in ("train", "extend"):
        shown = CliRunner().invoke(main, ["supertokens", path, "--help"]).stdout
        assert "-o, --out" in shown
        assert "-O, --option" in shown
    asked = ["supertokens", "train", "--text", "law=text.txt", "--vocab-size", "260", "--quiet"]
    assert CliRunner().invoke(main, [*asked, "one"], catch_exceptions=False).exit_code == 0
    assert CliRunner().invoke(main, [*asked, "-o", "two"], catch_exceptions=False).exit_code == 0
    assert Path("one/tokenizer.json").read_bytes() == Path("two/tokenizer.json").read_bytes()
