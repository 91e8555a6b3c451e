"""Files made to do harm: one line each, in bounded time and memory; nothing is run or written elsewhere."""

from __future__ import annotations

import copy
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers_zoo import added, write_tokenizer
from transformers import AutoTokenizer
from transplanting import edit_json, transplant

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import open_model

MEMORY = 6 * 2**30
"""Far more than any of these needs, and far less than what they ask for."""
INDEX = "model.safetensors.index.json"


@pytest.fixture
def definition(zoo: Mapping[str, Any]) -> dict[str, Any]:
    """A sound tokenizer.json, to be made worse."""
    return copy.deepcopy(dict(zoo["byte-level"].definition))


def with_added(definition: dict[str, Any], *entries: dict[str, Any]) -> dict[str, Any]:
    return {**definition, "added_tokens": [*definition["added_tokens"], *entries]}


def with_entries(definition: dict[str, Any], **entries: int) -> dict[str, Any]:
    return {**definition, "model": {**definition["model"], "vocab": {**definition["model"]["vocab"], **entries}}}


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a negative added id": lambda d: with_added(d, added("<x>", -1)),
    "a huge added id": lambda d: with_added(d, added("<x>", 2**40)),
    "a negative id": lambda d: with_entries(d, zz=-7),
    "a huge id": lambda d: with_entries(d, zz=2**32 - 1),
    "an id that asks for too many rows": lambda d: with_entries(d, zz=2**24 - 1),
    "an id that is a float": lambda d: with_entries(d, zz=7.5),
    "merges of unknown tokens": lambda d: {**d, "model": {**d["model"], "merges": [["q", "nowhere"]]}},
    "merges that abort the library": lambda d: {**d, "model": {**d["model"], "continuing_subword_prefix": "x"}},
    "a charsmap that panics": lambda d: {**d, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a pattern that panics": lambda d: {
        **d,
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "xx"},
    },
    "a broken pattern": lambda d: {
        **d,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(((("},
            "behavior": "Isolated",
            "invert": False,
        },
    },
    "deep nesting": lambda d: json.dumps(d)[:-1] + ', "x": ' + "[" * 300_000 + "]" * 300_000 + "}",
    "deep objects": lambda d: json.dumps(d)[:-1] + ', "x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
    "cut off": lambda d: json.dumps(d)[:5000],
    "a number of a million digits": lambda d: json.dumps(d)[:-1] + ', "x": ' + "9" * 1_000_000 + "}",
    "binary": lambda d: "\x00\x01\x02" * 1000,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("as_base", [False, True], ids=["target", "base"])
def test_a_hostile_tokenizer_is_one_line(
    run: Callable[..., Any], tmp_path: Path, base: Path, unigram_folder: Path, definition: Any, what: str, as_base: bool
) -> None:
    made = HOSTILE[what](definition)
    text = made if isinstance(made, str) else json.dumps(made)
    out = tmp_path / "place" / "out"
    if as_base:
        (base / "tokenizer.json").write_text(text, encoding="utf-8")
        ended = run("transplant", base, unigram_folder, out, "--quiet", "--method", "mean")
    else:
        target = tmp_path / "target"
        target.mkdir()
        (target / "tokenizer.json").write_text(text, encoding="utf-8")
        ended = run("transplant", base, target, out, "--quiet", "--method", "mean")
    ended.assert_one_line()
    assert ended.memory < MEMORY
    assert not out.exists()


@pytest.mark.parametrize("ids", [[700, 700], [5]], ids=["two added tokens with one id", "the id of another token"])
def test_added_tokens_with_taken_ids_get_those_of_transformers(
    run: Callable[..., Any], tmp_path: Path, base: Path, definition: Any, ids: list[int]
) -> None:
    """`transformers` reads such files, and gives the tokens free ids: so do we, and say so."""
    target, out = tmp_path / "target", tmp_path / "out"
    target.mkdir()
    tokens = [added(f"<x{n}>", i) for n, i in enumerate(ids)]
    (target / "tokenizer.json").write_text(json.dumps(with_added(definition, *tokens)), encoding="utf-8")
    ended = run("transplant", base, target, out, "--quiet", "--method", "mean")
    assert ended.code == 0, ended.said
    assert "but transformers reads it as" in ended.said
    loaded = AutoTokenizer.from_pretrained(str(out))
    found = [loaded.convert_tokens_to_ids(f"<x{n}>") for n in range(len(ids))]
    assert len(set(found)) == len(ids)
    assert max(found) < json.loads((out / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize("number", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_added_tokens_are_read_in_bounded_time_and_memory(
    run: Callable[..., Any], tmp_path: Path, base: Path, definition: Any, number: int
) -> None:
    """They are tokens like any other: it works, and takes no more than so many honest ones would."""
    first = len(definition["model"]["vocab"]) + 1
    many = with_added(definition, *(added(f"<extra_{i}>", first + i) for i in range(number)))
    target = write_tokenizer(tmp_path / "target", many)
    ended = run("plan", base, target, "--json")
    assert ended.code == 0, ended.said[-2000:]
    assert not ended.hanging
    assert ended.memory < MEMORY
    assert f'"target_tokens": {len(many["model"]["vocab"]) + 1 + number}' in ended.said


# --- weights --------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it touches a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def pickled(model: Path) -> dict[str, torch.Tensor]:
    """Take the safetensors file out of a model's folder."""
    tensors = load_file(str(model / "model.safetensors"))
    (model / "model.safetensors").unlink()
    return tensors


def a_plain_pickle(model: Path, touched: Path) -> None:
    pickled(model)
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil(touched)}))


def a_pickle_among_tensors(model: Path, touched: Path) -> None:
    torch.save({**pickled(model), "evil": Evil(touched)}, model / "pytorch_model.bin")


def a_zip_of_pickles(model: Path, touched: Path) -> None:
    pickled(model)
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as opened:
        for name in ("archive/data.pkl", "data.pkl", "archive/data/0", "__main__.py"):
            opened.writestr(name, pickle.dumps(Evil(touched)))


def an_indexed_pickle(model: Path, touched: Path) -> None:
    names = pickled(model)
    (model / "pytorch_model-1.bin").write_bytes(pickle.dumps(Evil(touched)))
    index = {"weight_map": dict.fromkeys(names, "pytorch_model-1.bin")}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("make", [a_plain_pickle, a_pickle_among_tensors, a_zip_of_pickles, an_indexed_pickle])
@pytest.mark.parametrize("options", [[], ["--lazy-unpickle"]], ids=["", "lazy"])
def test_a_pickle_is_never_run(
    run: Callable[..., Any], tmp_path: Path, base: Path, unigram_folder: Path, make: Any, options: list[str]
) -> None:
    touched = tmp_path / "touched"
    make(base, touched)
    out = tmp_path / "out"
    ended = run("transplant", base, unigram_folder, out, "--quiet", "--method", "mean", *options)
    assert not touched.exists()
    ended.assert_one_line()
    assert not out.exists()
    with pytest.raises(TokenAdaptError, match="cannot be read"):
        _ = open_model(str(base)).tensors.names
    assert not touched.exists()


def test_the_evil_pickle_would_touch_the_file(tmp_path: Path) -> None:
    """So that the test above can fail."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_truncated_weights_are_one_line(
    run: Callable[..., Any], tmp_path: Path, base: Path, unigram_folder: Path, share: float
) -> None:
    file = base / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    run("transplant", base, unigram_folder, tmp_path / "out", "--quiet").assert_one_line()
    assert not (tmp_path / "out").exists()


def test_a_header_that_asks_for_all_memory_is_one_line(
    run: Callable[..., Any], tmp_path: Path, base: Path, unigram_folder: Path
) -> None:
    (base / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    ended = run("transplant", base, unigram_folder, tmp_path / "out", "--quiet")
    ended.assert_one_line()
    assert ended.memory < MEMORY


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/../../other.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(
    run: Callable[..., Any], tmp_path: Path, base: Path, unigram_folder: Path, name: str
) -> None:
    tensors = load_file(str(base / "model.safetensors"))
    (base / "model.safetensors").unlink()
    save_file(tensors, str(tmp_path / "other.safetensors"), metadata={"format": "pt"})
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}))
    ended = run("transplant", base, unigram_folder, tmp_path / "out", "--quiet", "--method", "mean")
    ended.assert_one_line("not in the model's folder")
    with pytest.raises(TokenAdaptError, match="not in the model's folder"):
        _ = open_model(str(base)).tensors.names


# --- code and names -------------------------------------------------------------------------------


def test_remote_code_of_a_model_that_loads_without_it_is_not_run(
    run: Callable[..., Any], tmp_path: Path, base: Path, gemma_style_folder: Path
) -> None:
    """The classes are known, so that nothing has to be asked for: base, target and output are read all the same."""
    touched = tmp_path / "touched"
    target = tmp_path / "target"
    target.mkdir()
    for file in gemma_style_folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    for folder in (base, target):
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(touched)!r})\nclass Evil: pass\n")
        edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    edit_json(base / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    edit_json(base / "generation_config.json", custom_generate="evil.py")
    out = tmp_path / "out"
    text = tmp_path / "text.txt"
    text.write_text("the river and the mill " * 400)
    arguments = ("--quiet", "--method", "mean", "--calibration-text", text)
    ended = run("transplant", base, target, out, *arguments)
    assert ended.code == 0, ended.said
    assert not touched.exists()
    assert not (out / "evil.py").exists(), "code is not taken along"


def test_names_in_files_never_become_paths(tmp_path: Path, base: Path, gemma_style_folder: Path) -> None:
    """Tokenizer files, chat templates, tensors: what is written is below the output folder, under known names."""
    place = tmp_path / "place"
    target = place / "target"
    target.mkdir(parents=True)
    for file in gemma_style_folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    edit_json(
        target / "tokenizer_config.json",
        vocab_file="../../stolen.txt",
        tokenizer_file="/tmp/../stolen.json",
        name_or_path="../../stolen",
        chat_template=[{"name": "default", "template": "a"}, {"name": "../../stolen", "template": "b"}],
    )
    (target / "additional_chat_templates").mkdir()
    (target / "additional_chat_templates" / "x.jinja").write_text("c")
    tensors = load_file(str(base / "model.safetensors"))
    (base / "model.safetensors").unlink()
    save_file(tensors, str(base / "..model.safetensors"), metadata={"format": "pt"})
    (base / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "..model.safetensors")}))
    before = set(tmp_path.rglob("*"))
    out = transplant(base, target, place / "out")
    written = set(tmp_path.rglob("*")) - before - {out}
    assert written
    named = out / "additional_chat_templates"
    assert all(p.parent == out for p in written - {named / "x.jinja"})
    known = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    others = {"tokenadapt.json", "tokenadapt.plan", "README.md", "mergekit_config.yml"}
    assert {p.name for p in written} == known | others | {named.name, "x.jinja"}
