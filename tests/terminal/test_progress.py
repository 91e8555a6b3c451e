"""Progress: bars on a terminal, plain lines with shares in a log, nothing with --quiet."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
import tqdm
from click.testing import CliRunner

from mergekit_tokenadapt.cli.evaluate import main as evaluate
from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.terminal import progress as progress_module
from mergekit_tokenadapt.terminal.progress import Stages, lines_in_logs, plain_bars, progress, without_bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock takes ten seconds."""
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(now))


@pytest.fixture
def command():
    with lines_in_logs():
        yield


@pytest.mark.usefixtures("clock", "command")
def test_a_log_gets_lines_with_shares(capsys):
    assert list(progress(range(6), desc="Counting", quiet=False)) == list(range(6))
    with progress(total=4, desc="Reading", quiet=False) as bar:
        bar.update(3)
        bar.update(1)
        assert bar.n == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Counting"
    assert [line for line in lines if line.startswith("Counting: ")][-1] == "Counting: 100%"
    assert all(re.fullmatch(r"(Counting|Reading)(: \d+%)?", line) for line in lines)
    assert len(lines) < 12
    shares = [int(share) for share in re.findall(r"Counting: (\d+)%", "\n".join(lines))]
    assert shares == sorted(shares)


@pytest.mark.usefixtures("command")
def test_what_ends_in_an_error_is_not_said_to_be_over(capsys):
    with pytest.raises(ValueError, match="no"), progress(total=4, desc="Reading", quiet=False):
        raise ValueError("no")
    assert capsys.readouterr().err == "Reading\n"


def test_outside_of_a_command_a_log_gets_nothing(capsys):
    assert list(progress(range(3), desc="Counting", quiet=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("command")
def test_quiet_is_quiet(capsys):
    assert list(progress(range(3), desc="Counting", quiet=True)) == [0, 1, 2]
    with Stages(2, quiet=True) as stages:
        stages("one")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), desc="Counting", quiet=False)) == [0, 1, 2]
    with Stages(2, quiet=False) as stages:
        stages("one")
        stages("two")
    assert "Counting: 100%" in terminal.getvalue()
    assert "\r" in terminal.getvalue()
    assert "two" in terminal.getvalue()


def test_stages_in_a_log(capsys):
    with Stages(4, quiet=False) as stages:
        for name in ("loading", "scoring", "scoring again", "bootstrap"):
            stages(name)
    assert capsys.readouterr().err.splitlines() == [
        "  0%  loading",
        " 25%  scoring",
        " 50%  scoring again",
        " 75%  bootstrap",
    ]


@pytest.mark.usefixtures("command")
def test_bars_of_a_module_become_lines_and_come_back(capsys):
    module = SimpleNamespace(tqdm=tqdm)
    with plain_bars(module):
        assert list(module.tqdm.tqdm(["a", "b"], disable=False, desc="Executing graph")) == ["a", "b"]
        assert list(module.tqdm.tqdm(["a"], disable=True, desc="Executing graph")) == ["a"]
        assert list(module.tqdm.tqdm(["a"], disable=False, desc="Warmup loader cache")) == ["a"]
    assert module.tqdm is tqdm
    assert capsys.readouterr().err.splitlines() == ["Making the model", "Making the model: 100%"]


def test_bars_that_nobody_asked_for(capsys):
    with without_bars():
        assert list(tqdm.tqdm([1, 2], disable=False)) == [1, 2]
    assert capsys.readouterr().err == ""
    list(tqdm.tqdm([1, 2], disable=False))
    assert "2/2" in capsys.readouterr().err


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_level_folder, tiny_model_folder):
    return tiny_model_folder(byte_level_folder, tmp_path_factory.mktemp("progress") / "base")


BAR = re.compile(r"\r|it/s|\d+:\d+|[█▏▎▍▌▋▊▉]")


def test_a_transplant_in_a_log(base, gemma_style_folder, tmp_path):
    arguments = ["transplant", str(base), str(gemma_style_folder), "--method", "hybrid"]
    loud = CliRunner().invoke(main, [*arguments, str(tmp_path / "out")])
    assert loud.exit_code == 0
    assert "Making the model: 100%" in loud.stderr
    assert "N-gram space of" in loud.stderr
    assert not BAR.search(loud.stderr)
    quiet = CliRunner().invoke(main, [*arguments, str(tmp_path / "quiet"), "--quiet"])
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    assert "Making the model" not in quiet.stderr
    assert "N-gram" not in quiet.stderr


def test_learning_in_a_log(tmp_path):
    (tmp_path / "text.txt").write_text("the end of the river is the end of the river\n" * 20)
    arguments = ["supertokens", "train", "--text", str(tmp_path / "text.txt"), "--vocab-size", "600"]
    loud = CliRunner().invoke(main, [*arguments, str(tmp_path / "out")])
    assert loud.exit_code == 0
    for stage in ("words", "runs"):  # the first is read by a thread of another library
        assert f"Reading for {stage}: 100%" in loud.stderr
    assert not BAR.search(loud.stderr)


@pytest.mark.parametrize("command", ["compare", "draft", "probe-healing", "tokenizer"])
def test_an_evaluation_in_a_log(command, base):
    models = [base] if command in ("probe-healing", "tokenizer") else [base, base]
    more = {"compare": ("--resamples", 100), "draft": ("--prompts", 2, "--prompt-tokens", 4, "--new-tokens", 6)}
    texts = ("--builtin", "arithmetic", "--max-bytes", 600)
    heal = ("--steps", 2, "--every", 1, "--batch-size", 1, "--passage-bytes", 32)
    arguments = [command, *models, *texts, *more.get(command, heal if command == "probe-healing" else ())]
    loud = CliRunner().invoke(evaluate, [str(a) for a in arguments])
    assert loud.exit_code == 0, loud.output
    assert re.search(r"^ +0%  ", loud.stderr, flags=re.M)
    assert not BAR.search(loud.stderr)
    quiet = CliRunner().invoke(evaluate, [*(str(a) for a in arguments), "--quiet"])
    assert quiet.exit_code == 0
    assert quiet.stderr == ""
