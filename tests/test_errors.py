"""The line of another library's message that gives the reason: tested on the real messages of what is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import mergekit.common
import pydantic
import pytest
import torch
from mergekit.config import MergeConfiguration
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error


def no_backend(folder: Path) -> None:
    PreTrainedTokenizerFast.from_pretrained(str(folder))


def no_attribute(_folder: Path) -> None:
    mergekit.common.get_config_value(LlamaConfig(), "text_config.vocab_size")


def wrong_field(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": "many"}')
    AutoConfig.from_pretrained(folder)


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonsense"}')
    AutoConfig.from_pretrained(folder)


def no_causal_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip_vision_model"}')
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def other_sizes(_folder: Path) -> None:
    torch.nn.Linear(2, 3).load_state_dict({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)})


def hostile_pickle(folder: Path) -> None:
    torch.save({"weights": os.system}, folder / "model.bin")
    torch.load(folder / "model.bin", weights_only=True)


def wrong_recipe(_folder: Path) -> None:
    MergeConfiguration.model_validate({"merge_method": "linear", "models": [{"model": "a", "parameters": 7}]})


def wrong_json(_folder: Path) -> None:
    json.loads('{"a": ')


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (no_backend, "You need to have sentencepiece or tiktoken installed"),
        (no_attribute, "has no attribute text_config"),
        (wrong_field, "TypeError: Field 'hidden_size' expected int, got str (value: 'many')"),
        (unknown_type, "`nonsense`"),
        (no_causal_model, "Unrecognized configuration class"),
        (other_sizes, "size mismatch for weight"),
        (hostile_pickle, "unsupported GLOBAL posix.system"),
        (wrong_recipe, "parameters"),
        (wrong_json, "Expecting value"),
    ],
)
def test_the_reason_is_shown(tmp_path: Path, fail: Callable[[Path], None], says: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - libraries raise all kinds
        fail(tmp_path)
    line = first_line(caught.value)
    assert says in line
    assert "\n" not in line
    assert not line.endswith((":", "{", "("))


HUB_MISSING = (
    "404 Client Error. (Request ID: Root=1-68)\n\nRepository Not Found for url: https://huggingface.co/api/models/a/b."
    "\nPlease make sure you specified the correct `repo_id` and `repo_type`.\nIf you are trying to access a private "
    "or gated repo, make sure you are authenticated."
)
HUB_GATED = (
    "403 Client Error. (Request ID: Root=1-68)\n\nCannot access gated repo for url https://huggingface.co/a/b.\n"
    "Access to model a/b is restricted and you are not in the authorized list."
)
CONNECTION = "There was a specific connection error when trying to load a/b:\n401 Client Error.\nInvalid credentials"
REMOTE = (
    'ray::read() (pid=1)\n  File "/x/y.py", line 3, in read\n    raise ValueError(1)\n'
    "ValueError: the column 'text' is not there"
)
IMPORT = "Failed to import transformers.models.x because of the following error (look up):\nNo module named 'mamba_ssm'"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (HUB_MISSING, "Repository Not Found for url: https://huggingface.co/api/models/a/b."),
        (HUB_GATED, "Cannot access gated repo for url https://huggingface.co/a/b."),
        (CONNECTION, "Invalid credentials"),
        (REMOTE, "ValueError: the column 'text' is not there"),
        (IMPORT, "No module named 'mamba_ssm'"),
        ("one line", "one line"),
        ("\n\n  first\nsecond", "first"),
        ("nothing but a heading:\n(1) this", "nothing but a heading:"),
        ("", "RuntimeError"),
    ],
)
def test_messages_that_need_the_network_or_another_machine(message: str, line: str) -> None:
    assert first_line(RuntimeError(message)) == line


def test_one_error_says_the_reason() -> None:
    wanted = r"^it failed: RuntimeError: Invalid credentials$"
    with pytest.raises(TokenAdaptError, match=wanted), one_error("it failed"):
        raise RuntimeError(CONNECTION)


def test_pydantic_says_where_and_what() -> None:
    class Model(pydantic.BaseModel):
        rows: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Model(rows="many")  # type: ignore[arg-type]
    assert first_line(caught.value).startswith("rows: Input should be a valid integer")
