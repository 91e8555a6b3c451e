"""Special tokens from a transplant to generation: it stops where it should, and the chat template still works.

What becomes of each id in the configs is tested piece by piece in `tests/output/test_special_ids.py`.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers_zoo import CHAT_TEMPLATE, added, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transplanting import EMBEDDINGS, HEAD, edit_json, tensors_of, transplant

from mergekit_tokenadapt.tokenizer.files import load_tokenizer

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def saying(folder, token_id):
    """Change an untied model so that it says one token, whatever it has read: for its row only, the logit is large."""
    tensors = tensors_of(folder)
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()  # the state is the embedding of the last token
    tensors[EMBEDDINGS][:, 0] = 20.0
    tensors[HEAD][:, 0] = 0.0
    tensors[HEAD][token_id, 0] = 50.0
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def generate(folder, text, new_tokens=12):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    return model.generate(prompt, max_new_tokens=new_tokens, do_sample=False)[0, prompt.shape[1] :].tolist(), tokenizer


@pytest.fixture
def chat_base(tmp_path, byte_level_folder, tiny_model_folder):
    """``chat_base(token)``: an untied chat model that answers with one token at once; eos is a list."""

    def make(token):
        folder = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
        spellings = load_tokenizer(str(folder)).vocabulary.by_spelling
        eos = [spellings["<|im_end|>"].id, spellings["<|endoftext|>"].id]
        edit_json(folder / "generation_config.json", eos_token_id=eos)
        return saying(folder, spellings[token].id)

    return make


@pytest.fixture
def chat_target(tmp_path, zoo):
    """Llama style, with a turn token, the base's end of text, and a chat template of its own."""
    files = zoo["sentencepiece-bpe"]
    definition = json.loads(json.dumps(files.definition))
    first = files.vocabulary.num_ids
    definition["added_tokens"] += [added("<turn>", first), added("<|endoftext|>", first + 1)]
    template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<turn>{% endfor %}"
    config = {**files.config, "eos_token": "<turn>", "chat_template": template}
    return write_tokenizer(tmp_path / "chat", definition, config)


@pytest.mark.parametrize(
    ("says", "ends_with"),
    [("<|im_end|>", "<turn>"), ("<|endoftext|>", "<|endoftext|>")],
    ids=["end of turn, by role", "end of text, by string"],
)
def test_generation_stops_at_each_eos_after_a_chat_template(tmp_path, chat_base, chat_target, says, ends_with):
    base = chat_base(says)
    before, old = generate(base, old_prompt(base))
    assert before == [old.convert_tokens_to_ids(says)], "the base stops at once"
    out = transplant(base, chat_target, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "the river?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False)
    assert prompt == "<s>user: the river?<turn>"
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<turn>"), "a marker of the template is one token"
    after, _ = generate(out, prompt)
    rows = tensors_of(out)[HEAD]
    assert len(after) == 1, "and so does the output"
    assert torch.equal(rows[after[0]], rows[tokenizer.convert_tokens_to_ids(ends_with)])
    wanted = ["<turn>", "<|endoftext|>"]
    stops = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert stops[:2] == tokenizer.convert_tokens_to_ids(wanted)


def old_prompt(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "the river?"}], tokenize=False)
    assert prompt.startswith("<|im_start|>user")
    return prompt


def test_a_token_that_is_no_eos_goes_on(tmp_path, chat_base, chat_target):
    """So that the test above can fail: the same model with another token never stops."""
    out = transplant(chat_base("x"), chat_target, tmp_path / "out")
    generated, tokenizer = generate(out, "user: the river?")
    assert tokenizer.decode(generated) == "x" * 12


@pytest.mark.parametrize("with_file", [True, False], ids=["generation_config.json", "none"])
def test_one_base_token_for_all_roles_stops_whichever_of_the_targets_comes(
    tmp_path, byte_level_folder, chat_target, tiny_model_folder, with_file
):
    """As in GPT-2, bos = eos = unk = pad: the target's bos has the lowest id of the equal rows, and wins."""
    base = tiny_model_folder(byte_level_folder, tmp_path / "base", tied=False)
    edit_json(base / "tokenizer_config.json", **dict.fromkeys(ROLES, "<|endoftext|>"))
    end = load_tokenizer(str(base)).vocabulary.by_spelling["<|endoftext|>"].id
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), end)
    for name in ("config.json", "generation_config.json"):
        edit_json(base / name, **ids, pad_token_id=None)
    if not with_file:
        (base / "generation_config.json").unlink()
    out = transplant(saying(base, end), chat_target, tmp_path / "out")
    generated, tokenizer = generate(out, "the river")
    assert len(generated) == 1
    assert generated != [tokenizer.eos_token_id], "else the trap is not set"
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id


def test_the_base_template_is_kept_token_for_token(tmp_path, untied_base, zoo):
    """`chat_template: base`, with its markers in the target: the conversation reads the same."""
    files = zoo["gemma-style"]
    definition = json.loads(json.dumps(files.definition))
    first = files.vocabulary.num_ids
    definition["added_tokens"] += [added("<|im_start|>", first), added("<|im_end|>", first + 1)]
    target = write_tokenizer(tmp_path / "target", definition, dict(files.config))
    out = transplant(untied_base, target, tmp_path / "out", chat_template="base")
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (untied_base, out))
    assert new.chat_template == old.chat_template == CHAT_TEMPLATE
    messages = [{"role": "user", "content": "The mill\n\n  grinds 河"}, {"role": "assistant", "content": "Yes."}]
    texts = [t.apply_chat_template(messages, tokenize=False) for t in (old, new)]
    assert texts[0] == texts[1]
    ids = new(texts[1], add_special_tokens=False).input_ids
    assert new.decode(ids) == texts[0]
    assert ids.count(first) == ids.count(first + 1) == 2
    before, after = tensors_of(untied_base)[HEAD], tensors_of(out)[HEAD]
    for row, marker in ((first, "<|im_start|>"), (first + 1, "<|im_end|>")):
        assert torch.equal(after[row], before[old.convert_tokens_to_ids(marker)])
