"""How a tokenizer segments digits, spaces and the like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.habits import digit_grouping, habits


def groups_from_the_right(number: str) -> list[str]:
    return f"{int(number):,}".split(",")


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        (list, "one by one"),
        (lambda n: [n[i : i + 3] for i in range(0, len(n), 3)], "groups of 3 from the left"),
        (groups_from_the_right, "groups of 3 from the right"),
        (lambda n: [n[:1], n[1:]] if len(n) > 1 else [n], "learned"),
    ],
)
def test_digit_rules(how: Callable[[str], list[str]], rule: str) -> None:
    assert digit_grouping(how) == rule


def test_habits_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    lines = ["x" + " " * 8 + "y" + " " * 8 + "z", "\n\n\n\n", "a river a stone"] * 5
    folder = tiny_models.write_tokenizer(tiny_models.byte_level_tokenizer(lines, 320), tmp_path / "t")
    found = habits(load_tokenizer(str(folder)))
    assert found["digits"] == "one by one"
    assert found["longest_spaces"] == 7  # the eighth belongs to the next word
    assert found["longest_newlines"] == 4
    assert found["longest_tabs"] == 1
    assert found["space_between_words"] == "with the next word"
