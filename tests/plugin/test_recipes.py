"""Every recipe in yaml_recipes/, run by the stock mergekit commands on tiny stand-ins.

One of them as a shell runs it; the others in forks of a process that has imported what the stock commands import.
"""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mergekit.scripts import multimerge
from tokenizers import Tokenizer
from tokenizers_zoo import CORPUS
from transformers import AutoModelForCausalLM, AutoTokenizer

RECIPES = Path(__file__).parents[2] / "yaml_recipes"


@pytest.fixture
def run(stock, demo_folders):
    """``run("mergekit-yaml", recipe, "out")`` beside the folder `demo`: what it says, where it ends as expected."""

    def run_command(program, *arguments, code=0):
        environment = {"MERGEKIT_TOKENADAPT_CACHE": str(demo_folders / "cache")}
        ended = stock.run(demo_folders, program, *arguments, cwd=str(demo_folders), env=environment)
        assert ended.code == code, ended.said
        return ended.said

    return run_command


@pytest.fixture
def demo_folders(tmp_path, byte_level_folder, gemma_style_folder, tiny_model_folder):
    """What `make demo` puts below ./demo, in small: the names that the recipes use."""
    demo = tmp_path / "demo"
    tiny_model_folder(byte_level_folder, demo / "SmolLM2-135M-Instruct", dtype=torch.bfloat16)
    tiny_model_folder(gemma_style_folder, demo / "SmolLM2-deepseek-hybrid", dtype=torch.bfloat16, seed=1)
    tiny_model_folder(gemma_style_folder, demo / "gemma-3-270m", dtype=torch.bfloat16, seed=2)
    tiny_model_folder(gemma_style_folder, demo / "SmolLM2-deepseek-mean", dtype=torch.bfloat16, seed=3)
    shutil.copytree(gemma_style_folder, demo / "deepseek-tokenizer")
    return tmp_path


@pytest.fixture
def minilm_stand_in(demo_folders, wordpiece_folder):
    """A tiny sentence-transformers folder under the name of the hub id, which a folder takes precedence over."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ModuleNotFoundError:  # sentence-transformers 5.2
        from sentence_transformers.models import Pooling, Transformer

    encoder = demo_folders / "encoder"
    vocab_size = Tokenizer.from_file(str(wordpiece_folder / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(encoder)
    for file in wordpiece_folder.iterdir():
        shutil.copy(file, encoder)
    word = Transformer(str(encoder), max_seq_length=64)
    folder = demo_folders / "sentence-transformers" / "all-MiniLM-L6-v2"
    SentenceTransformer(modules=[word, Pooling(32)], device="cpu").save(str(folder))
    return folder


def assert_speaks(out: Path, tokenizer_folder: Path) -> None:
    """The folder loads without a word about weights, encodes like the target tokenizer, and generates."""
    model, loading = AutoModelForCausalLM.from_pretrained(str(out), output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (out / "tokenizer.json").read_bytes() == (tokenizer_folder / "tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    ids = tokenizer("Hello world", return_tensors="pt").input_ids
    generated = model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert generated.shape == (1, ids.shape[1] + 8)
    embeddings = model.get_input_embeddings().weight
    assert embeddings.isfinite().all()
    assert embeddings.abs().sum(1).min() > 0
    assert model.config.vocab_size == len(embeddings)


def test_every_recipe_is_run_here():
    tested = {
        "tokenizer_swap.yml",
        "tokenizer_swap_mean.yml",
        "tokenizer_swap_calibrated.yml",
        "tokenizer_swap_embedding_model.yml",
        "tokenizer_swap_omp.yml",
        "merge_two_tokenizers.yml",
        "two_steps.yml",
        "vocabulary_extension.yml",
        "supertokens.yml",
        "supertokens_domain.yml",
        "supertokens_language.yml",
        "supertokens_characters.yml",
        "task_arithmetic_across_tokenizers.yml",
        "task_arithmetic_new_tokenizer.yml",
        "task_arithmetic_healed.yml",
    }
    assert {file.name for file in RECIPES.iterdir()} == tested


def test_tokenizer_swap_in_a_shell(demo_folders, gemma_style_folder):
    command = [Path(sys.executable).parent / "mergekit-yaml", RECIPES / "tokenizer_swap.yml", "out"]
    done = subprocess.run(command, cwd=demo_folders, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_speaks(demo_folders / "out", gemma_style_folder)


@pytest.mark.parametrize("recipe", ["mean", "calibrated", "omp"])
def test_tokenizer_swap(recipe, run, demo_folders, gemma_style_folder):
    run("mergekit-yaml", RECIPES / f"tokenizer_swap_{recipe}.yml", "out")
    assert_speaks(demo_folders / "out", gemma_style_folder)


@pytest.mark.parametrize("variant", ["supertokens", "domain", "language", "characters"])
def test_supertokens(run, variant, demo_folders, byte_level_folder):
    """With a tokenizer made as the recipe's head says, in small."""
    text = demo_folders / "text.txt"
    text.write_text("the river and the mill of the river. 川は古い水車小屋のそばを流れる。\n" * 200, encoding="utf-8")
    base, out = "demo/SmolLM2-135M-Instruct", f"demo/SmolLM2-{variant}"
    command = {
        "supertokens": ["extend", base, "--add", "30"],
        "domain": ["extend", base, "--add", "20", "--drop"],
        "language": ["extend", base, "--add", "40"],
        "characters": ["train", "--vocab-size", "300", "--max-characters", "3", "--max-words", "1", "--like", base],
    }[variant]
    run("mergekit-tokenadapt", "supertokens", *command, out, "--text", text)
    name = "supertokens.yml" if variant == "supertokens" else f"supertokens_{variant}.yml"
    run("mergekit-yaml", RECIPES / name, "out")
    assert_speaks(demo_folders / "out", demo_folders / out)


def test_vocabulary_extension(run, demo_folders):
    (demo_folders / "texts").mkdir()
    (demo_folders / "texts" / "de.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    base = demo_folders / "demo" / "SmolLM2-135M-Instruct"
    said = run("mergekit-yaml", RECIPES / "vocabulary_extension.yml", "out")
    assert "Traceback" not in said
    old, new = (
        AutoModelForCausalLM.from_pretrained(str(f), dtype=torch.bfloat16).get_input_embeddings().weight
        for f in (base, demo_folders / "out")
    )
    assert len(new) > len(old)
    assert torch.equal(new[: len(old)], old)
    tokenizer = AutoTokenizer.from_pretrained(str(demo_folders / "out"))
    assert max(i for line in CORPUS for i in tokenizer(line).input_ids) >= len(old)


def test_tokenizer_swap_with_an_embedding_model(run, demo_folders, minilm_stand_in, gemma_style_folder):
    recipe = RECIPES / "tokenizer_swap_embedding_model.yml"
    run("mergekit-yaml", recipe, "first")
    assert_speaks(demo_folders / "first", gemma_style_folder)
    assert len(list((demo_folders / "cache").glob("*.safetensors"))) == 1
    run("mergekit-yaml", recipe, "second")
    first, second = (demo_folders / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_two_tokenizers_merged_onto_one(run, demo_folders, byte_level_folder):
    run("mergekit-yaml", RECIPES / "merge_two_tokenizers.yml", "out")
    assert_speaks(demo_folders / "out", byte_level_folder)
    # The first model speaks the target already: its share of every row is exactly its own row.
    rows = {
        name: AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).get_input_embeddings().weight
        for name, folder in (("out", demo_folders / "out"), ("own", demo_folders / "demo/SmolLM2-135M-Instruct"))
    }
    assert rows["out"].shape == rows["own"].shape
    assert not torch.equal(rows["out"], rows["own"])
    correlation = torch.nn.functional.cosine_similarity(rows["out"], rows["own"]).mean()
    assert correlation > 0.5


def test_task_arithmetic_across_tokenizers(run, demo_folders, byte_level_folder):
    from mergekit_tokenadapt.transfer.plan_files import load_plan

    recipe = RECIPES / "task_arithmetic_across_tokenizers.yml"
    run("mergekit-yaml", recipe, "out")
    assert_speaks(demo_folders / "out", byte_level_folder)
    out, base, other = (
        AutoModelForCausalLM.from_pretrained(str(demo_folders / f), dtype=torch.float32).get_input_embeddings().weight
        for f in ("out", "demo/SmolLM2-135M-Instruct", "demo/SmolLM2-deepseek-hybrid")
    )
    # The base model comes first, then the models in the order of the recipe, without it.
    plan = load_plan(demo_folders / "out" / "tokenadapt.plan.1")
    missing, shared = plan.missing_ids, plan.copied_ids
    assert len(missing) > 50 < len(shared)
    # A token that one model does not have has no task vector: the row is the base model's, bit for bit.
    assert torch.equal(out[missing], base[missing])
    sources = torch.from_numpy(plan.mapping.sources)[shared]
    expected = base[shared] + 0.6 * (other[sources] - base[shared])
    assert torch.allclose(out[shared], expected, atol=0.02)  # bfloat16


def test_task_arithmetic_in_a_tokenizer_that_the_base_model_does_not_speak(run, demo_folders, gemma_style_folder):
    from mergekit_tokenadapt.transfer.plan_files import load_plan

    recipe = RECIPES / "task_arithmetic_new_tokenizer.yml"
    run("mergekit-yaml", recipe, "out")
    assert_speaks(demo_folders / "out", gemma_style_folder)
    out, base, *tuned = (
        AutoModelForCausalLM.from_pretrained(str(demo_folders / f), dtype=torch.float32).get_input_embeddings().weight
        for f in ("out", *(f"demo/SmolLM2-{name}" for name in ("135M-Instruct", "deepseek-hybrid", "deepseek-mean")))
    )
    moved = load_plan(demo_folders / "out" / "tokenadapt.plan").apply(base.detach()).rows
    expected = moved + 0.7 * sum(rows - moved for rows in tuned)
    assert torch.allclose(out, expected, atol=0.02)  # bfloat16


def test_task_arithmetic_with_healed_models(
    run, demo_folders, gemma_style_folder, tiny_model_folder, byte_level_folder
):
    """With models made as the recipe's head says, in small: `heal` apart from the swap takes a number of steps."""
    names = ("SmolLM2-135M-Instruct", "fine-tune-1", "fine-tune-2")
    (demo_folders / "text").write_text("the river and the mill of the river counts stones\n" * 100)
    for seed, name in enumerate(names):
        if seed:
            folder = demo_folders / "demo" / name
            tiny_model_folder(byte_level_folder, folder, dtype=torch.bfloat16, seed=seed)
        swapped, healed = f"./demo/{name}-swapped", f"./demo/{name}-healed"
        run("mergekit-tokenadapt", "transplant", f"./demo/{name}", "./demo/deepseek-tokenizer", swapped)
        flags = ("--steps", 2, "--looks", 1, "--passages-per-step", 2, "--rank", 4, "--probe-bytes", 0)
        run("mergekit-tokenadapt", "heal", swapped, healed, "--text", "./text", *flags)
    run("mergekit-yaml", RECIPES / "task_arithmetic_healed.yml", "out")
    assert_speaks(demo_folders / "out", gemma_style_folder)
    out, base, *tuned = (
        AutoModelForCausalLM.from_pretrained(str(demo_folders / f), dtype=torch.float32).get_input_embeddings().weight
        for f in ("out", *(f"demo/{name}-healed" for name in names))
    )
    assert torch.allclose(out, base + 0.7 * sum(rows - base for rows in tuned), atol=0.02)  # bfloat16


def test_rows_of_the_base_model_need_a_base_model(run, demo_folders):
    recipe = demo_folders / "recipe.yml"
    text = (RECIPES / "tokenizer_swap_mean.yml").read_text()
    recipe.write_text(text.replace("method: mean", "method: mean\n    missing_rows: base_model"))
    said = run("mergekit-yaml", recipe, "out", code=2)
    assert "missing_rows: base_model needs a base_model in the recipe" in said


def test_two_steps_with_mergekit_multi(run, demo_folders, gemma_style_folder):
    # Plain "steps/swapped" would look like a hub id to the model card.
    run("mergekit-multi", RECIPES / "two_steps.yml", "--intermediate-dir", "./steps", "--out-path", "out")
    assert_speaks(demo_folders / "steps" / "swapped", gemma_style_folder)
    model = AutoModelForCausalLM.from_pretrained(str(demo_folders / "out"))
    assert model.get_input_embeddings().weight.isfinite().all()
    assert (demo_folders / "steps/swapped/tokenadapt.json").is_file()


def test_a_step_that_mergekit_multi_had_not_finished_is_made_again(demo_folders, monkeypatch, caplog):
    """It was killed after mergekit's part and before ours; or in a run over an older output."""
    steps = demo_folders / "steps" / "swapped"
    monkeypatch.chdir(demo_folders)
    arguments = [str(RECIPES / "two_steps.yml"), "--intermediate-dir", "./steps", "--out-path", "out", "--quiet"]

    def multi() -> str:
        caplog.clear()
        done = CliRunner().invoke(multimerge.main, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return caplog.text

    multi()
    whole = {f.name: f.read_bytes() for f in steps.iterdir()}
    for name in ("tokenadapt.json", "tokenadapt.plan", "generation_config.json", "tokenizer.json"):
        (steps / name).unlink()
    assert "was not finished, and is made again" in multi()
    assert {f.name: f.read_bytes() for f in steps.iterdir()} == whole
    modes = {stat.S_IMODE(f.stat().st_mode) for f in steps.iterdir()}
    assert len(modes) == 1, "weights are as readable as the other files"
    before = (steps / "model.safetensors").stat().st_mtime_ns
    assert "made again" not in multi()
    assert (steps / "model.safetensors").stat().st_mtime_ns == before, "a finished one is skipped"


def test_a_recipe_without_the_block_is_not_touched(run, demo_folders, without_plugin):
    recipe = demo_folders / "stock.yml"
    recipe.write_text(
        "merge_method: passthrough\nmodels:\n  - model: ./demo/SmolLM2-135M-Instruct\ntokenizer:\n  source: base\n"
    )
    run("mergekit-yaml", recipe, "with")
    ended = without_plugin.run(demo_folders, "mergekit-yaml", recipe, "without", cwd=str(demo_folders))
    assert ended.code == 0, ended.said
    for file in sorted((demo_folders / "without").iterdir()):
        expected = file.read_bytes().replace(b"# without", b"# with")
        assert (demo_folders / "with" / file.name).read_bytes() == expected, file.name
    assert not (demo_folders / "with" / "tokenadapt.json").exists()


def test_a_wrong_key_gets_an_error_that_names_it(run, demo_folders):
    recipe = demo_folders / "wrong.yml"
    text = (RECIPES / "tokenizer_swap.yml").read_text().replace("top_k", "topk")
    recipe.write_text(text)
    said = run("mergekit-yaml", recipe, "out", code=2)
    assert "unknown option 'topk'; its options are: temperature, top_k, global_weight, threshold" in said
    assert not (demo_folders / "out").exists()


def test_a_missing_tokenizer_is_one_line_and_exit_code_2_in_the_stock_command(run, demo_folders):
    recipe = demo_folders / "wrong.yml"
    recipe.write_text((RECIPES / "tokenizer_swap.yml").read_text().replace("deepseek-tokenizer", "nothing"))
    said = run("mergekit-yaml", recipe, "out", code=2)
    assert "Error: no tokenizer found at './demo/nothing'" in said
    assert "Traceback" not in said
    assert not (demo_folders / "out").exists()
