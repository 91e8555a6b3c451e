"""Optional packages that are missing, or that are there and do not work: the message says which."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mergekit_tokenadapt.auxiliary.model2vec import Model2VecSpace
from mergekit_tokenadapt.auxiliary.sentence_transformers import SentenceTransformersSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.tasks import run_tasks
from mergekit_tokenadapt.evaluation.tokenizer_quality import describe_tokenizers
from mergekit_tokenadapt.evaluation.tokenizer_quality.words import words_of
from mergekit_tokenadapt.extensions.extras import importing
from mergekit_tokenadapt.supertokens.ray_datasets import open_dataset
from mergekit_tokenadapt.texts import read_text
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.two_models.align import read_spans
from mergekit_tokenadapt.two_models.nearest_tokens import nearest_tokens


def vocabulary_of(word: str) -> Vocabulary:
    return Vocabulary.from_definition({"model": {"type": "WordLevel", "vocab": {word: 0}}})


CPU = torch.device("cpu")
USES: dict[str, tuple[str, Callable[[], object]]] = {
    "pyarrow": ("align", lambda: list(read_spans(Path("spans.parquet")))),
    "rapidfuzz": ("align", lambda: nearest_tokens(vocabulary_of("ab"), vocabulary_of("cd"))),
    "datasets": ("datasets", lambda: read_text("own=hf:owner/set")),
    "wordfreq": ("words", lambda: words_of("tr")),
    "lm_eval": ("lm-eval", lambda: run_tasks([], ["arc_easy"])),
    "sentence_transformers": (
        "embed",
        lambda: SentenceTransformersSpace("m").compute(Path("m"), [], device=CPU, quiet=True),
    ),
    "model2vec": ("model2vec", lambda: Model2VecSpace("m").compute(Path("m"), [], device=CPU, quiet=True)),
    "ray": ("ray", lambda: open_dataset("ray:texts.parquet", "--text")),
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Puts a package of that name and code in front of the real one, until the test is over."""
    stand_ins = []

    def install(package: str, code: str) -> None:
        stand_ins.append(package)
        for name in _modules_of(package):
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    for name in [name for package in stand_ins for name in _modules_of(package)]:
        del sys.modules[name]


def _modules_of(package: str) -> list[str]:
    return [name for name in sys.modules if name == package or name.startswith(f"{package}.")]


@pytest.mark.parametrize("package", USES)
@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('requires NumPy 2.0 or newer, found 1.26.0')",
        "import a_package_that_nobody_has",
        "import json; json.no_such_name",
    ],
    ids=["refuses", "misses another", "finds another one changed"],
)
def test_a_package_that_does_not_work_is_not_called_missing(installed, package, code):
    installed(package, code)
    extra, use = USES[package]
    with pytest.raises(TokenAdaptError) as caught:
        use()
    reason = "NumPy 2.0|a_package_that_nobody_has|no_such_name"
    assert caught.match(rf"{package}, which is installed but cannot be imported \(\w+Error: .*({reason})")
    assert caught.match(rf"pip install --upgrade 'mergekit-tokenadapt\[{extra}\]'$")


@pytest.mark.parametrize("package", [name for name in USES if name != "ray"])  # Ray has its own test
def test_a_missing_package_is_called_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    extra, use = USES[package]
    message = rf"{package}, which is not installed: pip install 'mergekit-tokenadapt\[{extra}\]'$"
    with pytest.raises(TokenAdaptError, match=message):
        use()


def test_a_part_that_is_missing_does_not_make_the_package_missing(installed):
    installed("pyarrow", "")
    with (
        pytest.raises(TokenAdaptError, match=r"installed but cannot be imported \(ModuleNotFoundError: .*pyarrow\.x"),
        importing("pyarrow", extra="align", wanted_by="a file"),
    ):
        import pyarrow.x  # noqa: F401


def test_quality_without_words_says_why(installed, zoo):
    installed("wordfreq", "raise ImportError('too old')")
    tokenizer = next(iter(zoo.values()))
    assert (
        "cannot be imported (ImportError: too old)"
        in describe_tokenizers([tokenizer], [read_text("own=README.md")])["word_note"]
    )
