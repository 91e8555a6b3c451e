"""Nothing that is printed moves the cursor, turns a line around, or is read as markup."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_zoo import added, byte_level, gemma_style, tiny_model_folder, write_tokenizer

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.visible import HIDDEN, json_text, visible

BAD = ["\u202eesrever", "\x1b[31mred", "\x9b31mred", "a\u2066b\u2069", "\u200b", "\ufeff", "\x7f", "[/bold]", "[red]"]


def hidden_in(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in HIDDEN}


@given(st.text())
def test_what_is_visible_says_all_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    assert not hidden_in(shown)
    assert shown == text or hidden_in(text)
    assert json.loads('"' + visible(json.dumps(text, ensure_ascii=False)[1:-1]) + '"') == text


@given(
    st.recursive(
        st.text() | st.none() | st.floats(allow_nan=False), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_stays_the_same_json(content: Any) -> None:
    text = json_text(content)
    assert hidden_in(text) <= {"\n"}
    assert json.loads(text) == content


def test_an_error_is_one_line() -> None:
    error = TokenAdaptError("the token 'a\nb\x1b[2J\u202e'")
    assert error.format_message() == "the token 'a\\nb\\u001b[2J\\u202e'"
    assert "\u202e" in str(error), "a program gets it as it is"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a target below a path that looks like markup; tokens that would garble a terminal."""
    root = tmp_path_factory.mktemp("root") / "a[" / "bold]"
    found = []
    for name, build in (("model", byte_level), ("target", gemma_style)):
        definition, config = build()
        size = max(definition["model"]["vocab"].values()) + 1
        size = max([size, *(entry["id"] + 1 for entry in definition["added_tokens"])])
        own = BAD if name == "target" else BAD[::-1]
        definition["added_tokens"] += [added(text, size + n, special=n % 2 == 0) for n, text in enumerate(own)]
        tokenizer = write_tokenizer(root / f"tok-{name}", definition, config)
        found.append(tiny_model_folder(tokenizer, root / f"[/{name}]"))
    return found[0], found[1]


def test_no_command_prints_what_garbles_a_terminal(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, target = map(str, folders)
    out = tmp_path / "[" / "out]"
    tokens = [part for token in BAD for part in ("--token", token)]
    commands = [
        (main, "transplant", model, target, out, "--method", "mean"),
        (main, "plan", model, target),
        (main, "explain", model, target, *tokens, "--method", "mean"),
        (main, "explain", model, target, *tokens, "--method", "mean", "--json"),
        (main, "explain", model, target, "--token", "\x1b[2Jno token\u202e"),
        (main, "supertokens", "report", target, "--against", model, "--builtin", "prose"),
        (main, "methods"),
        (evaluate, "check", out, "--base", model, "--no-run"),
    ]
    for group, *arguments in commands:
        done = CliRunner().invoke(group, [str(a) for a in arguments], env={"COLUMNS": "500"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert hidden_in(done.output) <= {"\n", "\r"}, arguments
        for name in (model, target):
            if arguments[0] == "plan":
                assert name in done.output.replace("\n", ""), "the name as it is"
    assert os.listdir(out.parent) == ["out]"]
