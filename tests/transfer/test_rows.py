"""The number of rows of the new matrices."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers_zoo import BYTE_LEVEL, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.transfer.rows import choose_rows


@pytest.fixture
def target(zoo: Mapping[str, TokenizerFiles]) -> TokenizerFiles:
    """601 ids."""
    return zoo["byte-level"]


def with_model_rows(target: TokenizerFiles, folder: Path, rows: int) -> TokenizerFiles:
    for file in target.files():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}), encoding="utf-8")
    return load_tokenizer(str(folder))


def test_rows_are_the_targets_ids_by_default(target: TokenizerFiles, zoo: Mapping[str, TokenizerFiles]) -> None:
    assert choose_rows(None, [], target) == 601
    assert choose_rows(None, [(zoo["unigram"], 5000)], target) == 601


def test_rows_of_a_base_with_the_same_tokenizer_are_kept(
    target: TokenizerFiles, zoo: Mapping[str, TokenizerFiles]
) -> None:
    assert choose_rows(None, [(zoo["unigram"], 5000), (target, 640), (target, 700)], target) == 640
    assert choose_rows(None, [(target, 600)], target) == 601, "fewer rows than ids"


def test_exact_rows_are_the_targets_ids(target: TokenizerFiles) -> None:
    assert choose_rows("exact", [(target, 640)], target) == 601


def test_donor_rows_are_those_of_the_targets_model(target: TokenizerFiles, tmp_path: Path) -> None:
    assert choose_rows("donor", [(target, 640)], with_model_rows(target, tmp_path, 1024)) == 1024


def test_donor_rows_need_the_targets_model(target: TokenizerFiles) -> None:
    with pytest.raises(TokenAdaptError, match=r"rows: donor needs a config\.json with vocab_size"):
        choose_rows("donor", [], target)


def test_donor_rows_that_are_too_few_are_refused(target: TokenizerFiles, tmp_path: Path) -> None:
    with pytest.raises(TokenAdaptError, match=r"rows: donor means 512 rows.*highest token id is 600.*at least 601"):
        choose_rows("donor", [], with_model_rows(target, tmp_path, 512))


def test_a_number_of_rows_is_taken_as_it_is(target: TokenizerFiles) -> None:
    assert choose_rows(601, [], target) == 601
    assert choose_rows(777, [(target, 640)], target) == 777


@pytest.mark.parametrize("rows", [590, 1, 0, -5])
def test_too_few_rows_are_refused(rows: int, target: TokenizerFiles) -> None:
    with pytest.raises(TokenAdaptError, match=f"rows: {rows} means {rows} rows.*at least 601 are needed"):
        choose_rows(rows, [], target)


@pytest.mark.parametrize(
    ("rows", "multiple", "expected"),
    [(None, 64, 640), ("exact", 64, 640), (640, 64, 640), (641, 64, 704), ("exact", 1, 601), ("exact", None, 601)],
)
def test_rows_are_rounded_up_to_a_multiple(
    rows: Any, multiple: int | None, expected: int, target: TokenizerFiles
) -> None:
    assert choose_rows(rows, [], target, multiple) == expected


def test_too_few_rows_are_not_rounded_into_enough(target: TokenizerFiles) -> None:
    with pytest.raises(TokenAdaptError, match="at least 601"):
        choose_rows(590, [], target, 64)


def test_an_added_token_may_lack_a_row_unless_it_has_a_role(
    target: TokenizerFiles, load: Callable[..., TokenizerFiles], caplog: pytest.LogCaptureFixture
) -> None:
    """The last token is <tool>, which the tokenizer's model does not make."""
    assert choose_rows(600, [], target) == 600
    assert "leaves 1 added tokens" in caplog.text
    assert "'<tool>'" in caplog.text
    with pytest.raises(TokenAdaptError, match="at least 601"):
        choose_rows(600, [], load(target.definition, {**target.config, "pad_token": "<tool>"}))


def test_gaps_count_as_rows(load: Callable[..., TokenizerFiles]) -> None:
    files = load(plain_definition({"a": 0, "b": 99}, decoder=BYTE_LEVEL))
    assert choose_rows("exact", [], files) == 100
