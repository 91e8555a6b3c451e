"""Healing on conversations: tokens of roles are trained in their places."""

import gzip
import json

import pytest
import torch
from click.testing import CliRunner
from quick_healing import QUICK
from transplanting import EMBEDDINGS, tensors_of, transplant

from mergekit_tokenadapt.cli.main import main
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.healing.passages import HealingText, read_healing_texts
from mergekit_tokenadapt.healing.rendering import Renderer
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

TOKENS = {"<|im_start|>": "<bos>", "<|im_end|>": "<eos>"}


def chats(number):
    return [
        [
            {"role": "user", "content": f"How many stones does the miller count on day {n}?"},
            {"role": "assistant", "content": f"The miller counts {n % 7} stones by the river. The cat sat on the mat."},
        ]
        for n in range(number)
    ]


@pytest.fixture
def chat_file(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(json.dumps({"id": n, "messages": c}) for n, c in enumerate(chats(60))))
    return file


@pytest.fixture(scope="module")
def moved(tied_pair, gemma_style_folder, tmp_path_factory):
    """The transplant with the base's chat template, whose markers are special tokens of the new tokenizer."""
    out = tmp_path_factory.mktemp("chat") / "moved"
    return transplant(tied_pair[0], gemma_style_folder, out, chat_template="base", token_map=TOKENS)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def flags(**changes):
    options = {**QUICK, "steps": 8, **changes}
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def test_rows_of_roles_are_trained(moved, tied_pair, tmp_path, chat_file):
    result = run("heal", moved, tmp_path / "out", "--text", f"chat={chat_file}", *flags())
    assert result.exit_code == 0, result.output
    assert "tokens of roles are not trained" not in result.output
    assert "chat (held out)" in result.stdout
    manifest = json.loads((tmp_path / "out" / "tokenadapt.json").read_text())["healing"]
    held_out = manifest["held_out"]
    assert held_out["after"]["chat"] < held_out["before"]["chat"]
    roles = load_tokenizer(str(moved)).vocabulary.roles
    before, after = (tensors_of(folder)[EMBEDDINGS] for folder in (moved, tmp_path / "out"))
    assert all((before[roles[role]] != after[roles[role]]).any() for role in ("bos", "eos"))
    again = run("heal", moved, tmp_path / "again", "--text", f"chat={chat_file}", *flags(), "--quiet")
    assert again.exit_code == 0, again.output
    assert torch.equal(after, tensors_of(tmp_path / "again")[EMBEDDINGS])


def test_a_chat_model_without_conversations_is_told(moved, tmp_path, text_file):
    result = run("heal", moved, tmp_path / "out", "--text", f"lines={text_file}", *flags(steps=2))
    assert result.exit_code == 0, result.output
    assert "has a chat template, and no text holds conversations: tokens of roles are not trained" in result.stderr


def test_a_model_without_a_template_is_refused(tied_pair, tmp_path, chat_file):
    result = run("heal", tied_pair[1], tmp_path / "out", "--text", f"chat={chat_file}", *flags())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has no chat template, so conversations cannot be rendered for it" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_target_of_a_draft_gets_no_conversations(moved, tied_pair, tmp_path, chat_file):
    result = run("draft", moved, tied_pair[0], tmp_path / "out", "--heal", "--heal-text", f"chat={chat_file}")
    assert result.exit_code == 2
    assert "a draft's target gets prompts of plain text, not messages" in result.stderr


def test_conversations_are_read_from_the_field_that_is_named(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(json.dumps({"turns": c, "text": "x"}) for c in chats(3)))
    (found,) = read_healing_texts([f"chat={file},field=turns"])
    assert found.conversations() == chats(3)
    (plain,) = read_healing_texts([f"chat={file}"])
    assert plain.documents == ("x",) * 3


def test_conversations_may_be_compressed(tmp_path, chat_file):
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(chat_file.read_bytes()))
    (found,) = read_healing_texts([tmp_path / "packed.jsonl.gz"])
    assert found.documents == read_healing_texts([chat_file])[0].documents
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "packed.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(TokenAdaptError, match=r"cut\.jsonl\.gz cannot be read"):
        read_healing_texts([tmp_path / "cut.jsonl.gz"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, is not valid JSON"),
        ('{"messages": []}', "line 2: 'messages' is not a list of messages"),
        ('{"messages": [{"role": "user"}]}', "line 2: 'messages' is not a list of messages"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', "line 2: 'messages' is not a list of messages"),
        ("[]", "line 2: 'messages' is not a list of messages"),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, message):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": chats(1)[0]}) + "\n" + line)
    with pytest.raises(TokenAdaptError, match=message):
        read_healing_texts([str(file)])


def test_long_conversations_lose_their_last_messages(chat_file):
    texts = read_healing_texts([f"chat={chat_file}"])
    whole = HealingText.of(texts, HealOptions())
    assert whole.has_conversations
    assert all("The cat sat" in passage for passage in whole.training)
    short = HealingText.of(texts, HealOptions(passage_bytes=60))
    assert len(short.training) == len(whole.training) == 54
    assert not any("The cat sat" in passage for passage in short.training)
    with pytest.raises(
        TokenAdaptError, match=r"60 conversations, and 0 of them can be used, .* first message has more than 20 bytes"
    ):
        HealingText.of(texts, HealOptions(passage_bytes=20))


def test_conversations_fit_into_a_position_table(moved, tied_pair, chat_file, caplog):
    texts = read_healing_texts([f"chat={chat_file}"])
    renderer = Renderer(load_tokenizer(str(tied_pair[0])), load_tokenizer(str(moved)))
    short = HealingText.of(texts, HealOptions(), renderer, most=110)
    assert len(short.training) == 54
    assert all(len(passage.encode()) <= 110 and "The cat sat" not in passage for passage in short.training)
    assert "left out" not in caplog.text
    with pytest.raises(
        TokenAdaptError, match=r"60 conversations, and 0 of them can be used, .* longer than the 130 bytes"
    ):
        HealingText.of(texts, HealOptions(), renderer, most=130)
