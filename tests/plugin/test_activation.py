"""Activation: when it happens, what it changes, and what it leaves alone."""

import subprocess
import sys

import pydantic
import pytest
from mergekit.config import MergeConfiguration, TokenizerConfig
from mergekit.options import MergeOptions

from mergekit_tokenadapt import activate

BLOCK = {"method": "global", "top_k": 5, "token_map": {"<a>": "<b>"}, "rows": 700}


@pytest.fixture(autouse=True)
def active():
    activate()


def recipe(**tokenizer):
    return {"merge_method": "passthrough", "models": [{"model": "./m"}], "tokenizer": tokenizer}


def python(code):
    """Run code in a fresh process; its standard output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_making_merge_options_is_enough_to_activate():
    code = (
        "from mergekit.options import MergeOptions; from mergekit.config import MergeConfiguration; MergeOptions();"
        f"print(MergeConfiguration.model_validate({recipe(source='./t', adapt={'method': 'mean'})}).tokenizer.adapt)"
    )
    assert "method='mean'" in python(code)


def test_a_recipe_read_before_activation_is_refused_not_ignored(stock, tmp_path):
    code = (
        "from mergekit.config import MergeConfiguration\n"
        f"block = {recipe(source='./t', adapt={'method': 'mean'})}\n"
        "try: MergeConfiguration.model_validate(block)\n"
        "except Exception as error: print(error)\n"
        "import mergekit_tokenadapt; mergekit_tokenadapt.activate()\n"
        "print(MergeConfiguration.model_validate(block).tokenizer.adapt.method)"
    )
    refusal, method = stock.python(tmp_path, code).splitlines()
    assert "call mergekit_tokenadapt.activate() before reading the recipe" in refusal
    assert method == "mean"


def test_importing_pydantic_imports_nothing_of_ours_but_the_hook():
    code = (
        "import sys, pydantic\nclass A(pydantic.BaseModel): x: int = 1\nA()\n"
        "print(sorted(m for m in sys.modules if m.startswith(('mergekit', 'torch', 'transformers'))))"
    )
    ours = "['mergekit_tokenadapt', 'mergekit_tokenadapt.plugin', 'mergekit_tokenadapt.plugin.pydantic_hook']"
    assert python(code) == ours


def test_the_plugin_can_be_switched_off(stock, without_plugin, tmp_path):
    code = (
        "from mergekit.options import MergeOptions; import mergekit.merge; MergeOptions();"
        "print(mergekit.merge.MergePlanner.__module__)"
    )
    assert stock.python(tmp_path, code) == "mergekit_tokenadapt.plugin.planner"
    assert without_plugin.python(tmp_path, code) == "mergekit.plan"


def test_our_own_command_works_where_the_hook_is_off(without_plugin, tmp_path):
    code = "from mergekit_tokenadapt.cli.main import main; main(['transplant', '--help'])"
    assert "--method" in without_plugin.python(tmp_path, code)


def test_activating_twice_changes_nothing():
    from mergekit import merge

    before = merge.MergePlanner
    activate()
    assert merge.MergePlanner is before


def test_the_block_survives_a_round_trip_through_yaml():
    import yaml

    first = MergeConfiguration.model_validate(recipe(source="./t", adapt=BLOCK))
    second = MergeConfiguration.model_validate(yaml.safe_load(first.to_yaml()))
    assert second.tokenizer.adapt == first.tokenizer.adapt
    assert second.tokenizer.adapt.make_method().top_k == 5
    assert hash(second.tokenizer.adapt) == hash(first.tokenizer.adapt)


def test_stock_tokenizer_blocks_mean_what_they_did():
    for block in ({"source": "union"}, {"source": "base", "pad_to_multiple_of": 64}, {}):
        configuration = MergeConfiguration.model_validate(recipe(**block))
        stock = TokenizerConfig.model_validate(block)
        assert configuration.tokenizer.adapt is None
        assert configuration.tokenizer.model_dump(exclude={"adapt"}) == stock.model_dump()
    assert MergeConfiguration.model_validate({**recipe(), "tokenizer": None}).tokenizer is None


def test_a_stock_config_object_is_still_taken():
    configuration = MergeConfiguration(
        merge_method="passthrough", models=[{"model": "./m"}], tokenizer=TokenizerConfig(source="base")
    )
    assert configuration.tokenizer.source == "base"


def test_the_error_names_the_key_and_the_known_ones():
    with pytest.raises(pydantic.ValidationError, match="unknown option 'topk'; its options are: temperature, top_k"):
        MergeConfiguration.model_validate(recipe(source="./t", adapt={"method": "global", "topk": 5}))


def test_merge_options_are_not_changed():
    assert MergeOptions(cuda=False).device == "cpu"
    assert MergeOptions.model_fields.keys() >= {"cuda", "multi_gpu", "out_shard_size"}


def test_another_mergekit_is_refused_in_one_line(monkeypatch):
    import mergekit.merge
    import mergekit.plan

    from mergekit_tokenadapt.errors import TokenAdaptError
    from mergekit_tokenadapt.plugin import activation

    monkeypatch.setattr(mergekit.merge, "MergePlanner", mergekit.plan.MergePlanner)
    monkeypatch.delattr(mergekit.plan, "PermutedVocabulary")
    with pytest.raises(TokenAdaptError, match=r"0\.1\.5 and later 0\.1\.x.*lacks PermutedVocabulary"):
        activation.activate_once()
