"""The model that the rows of a transplant are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from click.testing import Result
from mergekit.options import MergeOptions
from scored_texts import SHORT, TEXT
from tokenizers import Tokenizer

from mergekit_tokenadapt.evaluation.compare import compare
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.plugin.transplant import make_recipe, run_recipe

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def second(root: Path, base: Path, german: Tokenizer) -> Path:
    """The base model with ids in another order, transplanted by the plugin: with a manifest."""
    other = tiny_models.permuted(base, root / "base in another order")
    tokenizer = tiny_models.write_tokenizer(german, root / "german")
    return run_recipe(
        make_recipe(str(other), str(tokenizer), {"method": "mean"}), str(root / "second"), MergeOptions(quiet=True)
    )


@pytest.mark.parametrize("manifest", [True, False], ids=["by hash", "by the tokens"])
def test_old_ids_are_read_with_the_model_that_they_are_of(
    out: Path, second: Path, base: Path, copy_of: Callable[[Path], Path], manifest: bool
) -> None:
    """`base` and the model in another order have the same tokens under other ids."""
    right, model = second.parent / "base in another order", copy_of(second)
    if not manifest:
        (model / "tokenadapt.json").unlink()
    result = compare([open_model(str(f)) for f in (right, model, out)], [TEXT], SHORT)
    ours, other = result["models"][1:]
    assert ours["origin_note"] is None
    for token in ours["top_excess"]:
        assert token["made_of"]
        if token["reason"] == "copied":
            assert [part["text"] for part in token["made_of"]] == [token["text"]]
    made_from = f"from {right}, " if manifest else ""
    assert other["origin_note"].startswith(f"{out} was made not from {right}: its old ids are those of another")
    assert all(token["made_of"] is None for token in other["top_excess"])

    report = compare([open_model(str(f)) for f in (base, model)], [TEXT], SHORT)["models"][1]
    assert report["origin_note"].startswith(f"{model} was made {made_from}not from {base}")
    assert all(token["made_of"] is None for token in report["top_excess"])


def test_the_column_is_left_out_and_that_is_said(run: Run, second: Path, base: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("compare", base, second, "--builtin", "hard", "--max-bytes", 300, "--resamples", 100, "--html", page)
    assert result.exit_code == 0, result.output
    for report in (" ".join(result.stdout.split()), page.read_text()):
        assert "What rows are made of is left out: " in report
    assert "made of ┃" not in result.stdout
    assert "row made of" not in page.read_text()
