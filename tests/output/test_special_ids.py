"""Special ids in configs, stray markers of chat templates, and the finished folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers_zoo import BYTE_LEVEL, CHAT_TEMPLATE, added, make_transfer, plain_definition

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output import MANIFEST, PLAN, OutputFolder, SpecialIds, stray_markers
from mergekit_tokenadapt.output.translation import translate, warn_of
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.plan_files import load_plan

# Base: five letters, then control tokens as chat models have them.
BASE = plain_definition(
    [*"abcde"],
    [
        added("<s>", 5),
        added("</s>", 6),
        added("<unk>", 7),
        added("<pad>", 8),
        added("<|eot|>", 9),
        added("<|only_base|>", 10),
        added("<image>", 11),
        added("<tool>", 12, special=False),
    ],
    decoder=BYTE_LEVEL,
)
BASE_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}

TARGET = plain_definition(
    [*"edc"],
    [
        added("<image>", 3),
        added("<|eot|>", 4),
        added("<|begin|>", 5),
        added("<|end|>", 6),
        added("<tool>", 7, special=False),
    ],
    decoder=BYTE_LEVEL,
)


def special_ids(
    target_roles: Mapping[str, str],
    *,
    target: Mapping[str, Any] = TARGET,
    base_roles: Mapping[str, str] = BASE_ROLES,
    token_map: Mapping[str, str] | None = None,
) -> SpecialIds:
    base = Vocabulary.from_definition(BASE, base_roles)
    new = Vocabulary.from_definition(target, target_roles)
    transfer = make_transfer((BASE, base), new, token_map=token_map)
    return SpecialIds(base, new, transfer.mapping)


def translated(ids: SpecialIds, config: Mapping[str, Any]) -> dict[str, Any]:
    translation = translate(config, ids)
    warn_of(translation)
    return translation.config


WITHOUT_PAD = {"bos": "<|begin|>", "eos": "<|end|>"}


# --- one id --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (9, 4),  # <|eot|>: the same string
        (6, 6),  # </s>: the same role
        (5, 5),  # <s>: the same role
        (12, 7),  # <tool>: an added token
        (2, 2),  # "c"
        (3, 1),  # "d"
        (0, None),  # "a" is not there
        (10, None),
        (8, None),  # no pad
        (999, None),
    ],
)
def test_an_old_id_becomes_the_token_that_means_the_same(old: int, new: int | None) -> None:
    assert special_ids(WITHOUT_PAD).new_id(old) == new


def test_the_users_map_is_followed() -> None:
    ids = special_ids(WITHOUT_PAD, token_map={"<|only_base|>": "<tool>"})
    assert ids.new_id(10) == 7


def test_no_id_at_all_stays_no_id() -> None:
    """-1 is how some configs write "none"; a special token made from a text has no source either."""
    ids = special_ids(WITHOUT_PAD, token_map={"<image>": "abc"})
    assert ids.new_id(-1) is None


# --- roles ---------------------------------------------------------------------------------------


def test_roles_are_those_of_the_target() -> None:
    config = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 8, "hidden_size": 32, "model_type": "llama"}
    result = translated(special_ids(WITHOUT_PAD), config)
    assert result == config | {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": None}


def test_a_missing_role_is_none_and_never_zero() -> None:
    result = translated(special_ids({"eos": "<|end|>"}), {"bos_token_id": 5, "pad_token_id": 8, "eos_token_id": 6})
    assert result == {"bos_token_id": None, "pad_token_id": None, "eos_token_id": 6}


def test_a_role_that_only_the_target_has_is_set() -> None:
    result = translated(special_ids(WITHOUT_PAD), {"bos_token_id": None, "eos_token_id": 6})
    assert result == {"bos_token_id": 5, "eos_token_id": 6}


def test_a_missing_eos_is_kept_where_the_target_has_the_token() -> None:
    """Without one, generation would not stop."""
    assert translated(special_ids({}), {"eos_token_id": 9})["eos_token_id"] == 4


def test_a_missing_eos_that_the_target_lacks_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert translated(special_ids({}), {"eos_token_id": 10})["eos_token_id"] is None
    assert "eos_token_id was 10" in caplog.text


def test_an_eos_list_stays_a_list() -> None:
    ids = special_ids(WITHOUT_PAD)
    assert translated(ids, {"eos_token_id": [6, 9]})["eos_token_id"] == [6, 4]
    assert translated(ids, {"eos_token_id": [9, 10]})["eos_token_id"] == [6, 4]
    assert translated(ids, {"eos_token_id": [6]})["eos_token_id"] == [6]
    assert translated(ids, {"eos_token_id": [9, 9, 6]})["eos_token_id"] == [6, 4]


def test_an_eos_that_is_not_the_tokenizers_is_kept_beside_the_targets() -> None:
    """A chat model stops at <|eot|>, and its tokenizer still says </s>."""
    assert translated(special_ids(WITHOUT_PAD), {"eos_token_id": 9}) == {"eos_token_id": [6, 4]}
    assert translated(special_ids(WITHOUT_PAD), {"eos_token_id": 6}) == {"eos_token_id": 6}
    assert translated(special_ids(WITHOUT_PAD), {"eos_token_id": 10}) == {"eos_token_id": 6}


def test_a_base_that_pads_with_eos_keeps_its_eos() -> None:
    """Its row is that of the new pad and of the new eos, and the pad's id is lower."""
    target = plain_definition([*"edc"], [added("<pad>", 3), added("<end>", 4)], decoder=BYTE_LEVEL)
    ids = special_ids({"pad": "<pad>", "eos": "<end>"}, target=target, base_roles={"pad": "</s>", "eos": "</s>"})
    config = {"forced_eos_token_id": 6, "eos_token_id": 6, "pad_token_id": 6}
    assert translated(ids, config) == {"forced_eos_token_id": 4, "eos_token_id": 4, "pad_token_id": 3}


def test_the_html_tag_is_no_eos() -> None:
    """Gemma has `</s>` as text. The eos of another base is `<eos>` there."""
    with_tag = plain_definition([*"edc"], [added("<eos>", 3), added("</s>", 4, special=False)], decoder=BYTE_LEVEL)
    ids = special_ids({"eos": "<eos>"}, target=with_tag)
    config = {"eos_token_id": [6], "forced_eos_token_id": 6, "suppress_tokens": [6]}
    assert translated(ids, config) == {"eos_token_id": [3], "forced_eos_token_id": 3, "suppress_tokens": [3]}


def test_an_eos_list_without_any_counterpart_is_none() -> None:
    assert translated(special_ids({}), {"eos_token_id": [10]})["eos_token_id"] is None


def test_one_token_for_bos_eos_and_unk_serves_them_all() -> None:
    target = plain_definition([*"abc"], [added("<|endoftext|>", 3)], decoder=BYTE_LEVEL)
    roles = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
    ids = special_ids(roles, target=target)
    config = {"bos_token_id": 5, "eos_token_id": 6, "unk_token_id": 7, "pad_token_id": 8}
    assert translated(ids, config) == {"bos_token_id": 3, "eos_token_id": 3, "unk_token_id": 3, "pad_token_id": None}
    assert ids.new_id(6) == 3
    assert translated(ids, {"eos_token_id": [6, 10]})["eos_token_id"] == [3]


def test_one_base_token_for_all_roles_becomes_each_of_the_targets() -> None:
    ids = special_ids(WITHOUT_PAD, base_roles=dict.fromkeys(("bos", "eos", "unk", "pad"), "</s>"))
    config = {"bos_token_id": 6, "eos_token_id": 6, "pad_token_id": 6}
    assert translated(ids, config) == {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": None}


def test_special_tokens_with_the_row_of_an_eos_are_eos_too() -> None:
    ids = special_ids(WITHOUT_PAD, base_roles=dict.fromkeys(("bos", "eos", "unk", "pad"), "</s>"))
    assert ids.with_twins(6) == [6, 5]
    assert ids.with_twins([6]) == [6, 5]
    assert ids.with_twins([4, 6]) == [4, 6, 5]
    assert ids.with_twins(4) == 4
    assert ids.with_twins(None) is None
    assert special_ids(WITHOUT_PAD).with_twins(6) == 6


def test_nested_configs_are_translated_too() -> None:
    config = {"model_type": "vlm", "text_config": {"eos_token_id": [6, 9], "pad_token_id": 8, "vocab_size": 13}}
    result = translated(special_ids(WITHOUT_PAD), config)
    assert result["text_config"] == {"eos_token_id": [6, 4], "pad_token_id": None, "vocab_size": 13}


def test_other_token_ids_follow_their_token(caplog: pytest.LogCaptureFixture) -> None:
    config = {"image_token_id": 11, "decoder_start_token_id": 5, "forced_eos_token_id": None, "audio_token_id": 10}
    assert translated(special_ids(WITHOUT_PAD), config) == {
        "image_token_id": 3,
        "decoder_start_token_id": 5,
        "forced_eos_token_id": None,
        "audio_token_id": None,
    }
    assert "audio_token_id was 10" in caplog.text


def test_suppressed_tokens_are_translated_and_lost_ones_dropped() -> None:
    config = {"suppress_tokens": [0, 2, 9, 10], "begin_suppress_tokens": None}
    assert translated(special_ids(WITHOUT_PAD), config) == {"suppress_tokens": [2, 4], "begin_suppress_tokens": None}


def test_a_word_that_cannot_be_written_any_more_is_no_bad_word() -> None:
    ids = special_ids(WITHOUT_PAD)
    assert translated(ids, {"bad_words_ids": [[2, 3], [0, 2]]}) == {"bad_words_ids": [[2, 1]]}
    assert translated(ids, {"bad_words_ids": [[0]], "force_words_ids": None}) == {
        "bad_words_ids": None,
        "force_words_ids": None,
    }


def test_a_phrase_is_what_the_target_writes(zoo: Mapping[str, TokenizerFiles]) -> None:
    """Id by id, ` a[i]` would become tokens that the target never writes in a row, and the ban would do nothing."""
    base, target = zoo["byte-level"], zoo["gemma-style"]
    transfer = make_transfer(base, target)
    ids = SpecialIds(base.vocabulary, target.vocabulary, transfer.mapping, definition=target.definition)
    for text in (" a[i]", " grinding", " the", "\n    x = 1"):
        old = base.fast_tokenizer().encode(text, add_special_tokens=False).ids
        config = translated(ids, {"bad_words_ids": [old], "sequence_bias": [[old, -1.0]]})
        (banned,) = config["bad_words_ids"]
        written = target.fast_tokenizer().encode(f"x{text}", add_special_tokens=False).ids
        assert written[-len(banned) :] == banned, text
        assert b"".join(target.vocabulary.by_id[i].bytes for i in banned).decode() == text
        assert config["sequence_bias"] == [[banned, -1.0]]
    end, letter = base.vocabulary.roles["eos"], base.vocabulary.by_spelling["a"].id
    one_by_one = [target.vocabulary.roles["eos"], target.vocabulary.by_spelling["a"].id]
    assert translated(ids, {"bad_words_ids": [[end, letter]]}) == {"bad_words_ids": [one_by_one]}


def test_a_config_is_not_changed_and_other_keys_are_kept() -> None:
    config = {"eos_token_id": [6], "text_config": {"bos_token_id": 5}, "architectures": ["X"], "rope": {"theta": 1.0}}
    before = json.dumps(config)
    result = translated(special_ids(WITHOUT_PAD), config)
    assert json.dumps(config) == before
    assert list(result) == list(config)
    assert (result["architectures"], result["rope"]) == (["X"], {"theta": 1.0})


def test_the_same_tokenizer_keeps_every_id(tokenizer: TokenizerFiles) -> None:
    vocabulary = tokenizer.vocabulary
    ids = SpecialIds(vocabulary, vocabulary, make_transfer(tokenizer, tokenizer).mapping)
    assert [ids.new_id(t.id) for t in vocabulary] == [t.id for t in vocabulary]


# --- stray markers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "stray"),
    [
        ("", []),
        ("Just {{ text }} and a < b, b > a.", []),
        ("{% if a<b and c>d %}{{ m['x'] }}{% endif %}", []),
        ("<|im_start|>user<|im_end|>", []),
        ("<|user|><|im_end|><|assistant|><|user|>", ["<|assistant|>", "<|user|>"]),
        ("[INST] {{ text }} [/INST]", ["[/INST]", "[INST]"]),
        ("{{ '<start_of_turn>' + role }}", ["<start_of_turn>"]),
        ("<｜User｜>{{ text }}<｜Assistant｜>", ["<｜Assistant｜>", "<｜User｜>"]),
        ("<think>\n</think>", ["</think>", "<think>"]),
        ("{{ messages[0] }} {{ x[A] }} [OK]", []),
    ],
)
def test_stray_markers_are_those_that_are_not_one_token(
    template: str, stray: list[str], zoo: Mapping[str, TokenizerFiles]
) -> None:
    assert stray_markers(template, zoo["byte-level"]) == stray


def test_the_zoo_template_has_no_stray_markers(zoo: Mapping[str, TokenizerFiles]) -> None:
    assert stray_markers(CHAT_TEMPLATE, zoo["byte-level"]) == []
    assert stray_markers(CHAT_TEMPLATE, zoo["unigram"]) == ["<|im_end|>", "<|im_start|>"]


# --- the finished folder -------------------------------------------------------------------------


@pytest.fixture
def output(
    zoo: Mapping[str, TokenizerFiles],
    zoo_folders: Mapping[str, Path],
    tiny_model_folder: Callable[..., Path],
    tmp_path: Path,
) -> OutputFolder:
    """From Llama style to byte-level."""
    model = tiny_model_folder(zoo_folders["sentencepiece-bpe"], tmp_path / "base")
    base, target = load_tokenizer(str(model)), zoo["byte-level"]
    plan = make_transfer(base, target, num_rows=640).make_plan()
    adapt = {"method": "mean", "chat_template": "target", "start_token": "target", "save_plan": True}
    return OutputFolder(base, model, target, 640, ("vocab_size",), adapt, (("base", model),), (plan,))


def finish(output: OutputFolder, out: Path, config: Mapping[str, Any] | None = None) -> Path:
    out.mkdir()
    text = (output.base_folder / "config.json").read_text() if config is None else json.dumps(config)
    (out / "config.json").write_text(text, encoding="utf-8")
    output.with_plans(list(output.plans)).save_pretrained(str(out))
    return out


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_tokenizer_files_are_copied_byte_for_byte(output: OutputFolder, tmp_path: Path) -> None:
    out = finish(output, tmp_path / "out")
    for file in output.target.files():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_both_configs_speak_the_new_tokenizer(output: OutputFolder, tmp_path: Path) -> None:
    out = finish(output, tmp_path / "out")
    roles = output.target.vocabulary.roles
    expected = {f"{role}_token_id": roles[role] for role in ("bos", "eos", "pad")}
    assert expected.items() <= read(out / "config.json").items()
    # In the base, pad is eos: the target's pad has the same row, and stops as well.
    stops = {"eos_token_id": [roles["eos"], roles["pad"]]}
    assert {**expected, **stops}.items() <= read(out / "generation_config.json").items()
    assert read(out / "config.json")["vocab_size"] == 640


def test_a_nested_number_of_rows_is_set(output: OutputFolder, tmp_path: Path) -> None:
    nested = dataclasses.replace(output, vocab_size_keys=("text_config.vocab_size",))
    out = finish(nested, tmp_path / "out", {"text_config": {"vocab_size": 555, "eos_token_id": 2}})
    roles = output.target.vocabulary.roles
    assert read(out / "config.json")["text_config"] == {"vocab_size": 640, "eos_token_id": roles["eos"]}


def test_the_saved_plan_can_be_loaded(output: OutputFolder, tmp_path: Path) -> None:
    out = finish(output, tmp_path / "out")
    assert load_plan(out / PLAN).num_rows == 640


def test_no_plan_is_saved_where_none_is_wanted(output: OutputFolder, tmp_path: Path) -> None:
    without = dataclasses.replace(output, adapt={**output.adapt, "save_plan": False})
    assert not (finish(without, tmp_path / "out") / PLAN).exists()


def test_every_input_has_its_plan_and_its_line(output: OutputFolder, tmp_path: Path) -> None:
    twice = dataclasses.replace(output, inputs=output.inputs * 2, plans=output.plans * 2)
    out = finish(twice, tmp_path / "out")
    assert (out / PLAN).read_bytes() == (out / f"{PLAN}.1").read_bytes()
    assert len(read(out / MANIFEST)["inputs"]) == 2


def test_the_manifest_says_what_went_in_and_what_was_done(output: OutputFolder, tmp_path: Path) -> None:
    manifest = read(finish(output, tmp_path / "out") / MANIFEST)
    assert manifest["format"] == "mergekit-tokenadapt manifest 1"
    assert manifest["rows"] == 640
    assert manifest["adapt"] == dict(output.adapt)
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in output.target.files()}
    assert manifest["target"] == {"name": output.target.name, "files": files}
    (only,) = manifest["inputs"]
    assert only["name"] == "base"
    assert only["method"] == "mean"
    assert only["rows_by_reason"] == output.plans[0].counts()
    assert set(only["weights"]) == {"model.safetensors"}
    assert {"config.json", "tokenizer.json"} <= set(only["files"])
    assert set(manifest["versions"]) >= {"mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers"}


def test_the_same_inputs_give_the_same_folder(output: OutputFolder, tmp_path: Path) -> None:
    one, other = finish(output, tmp_path / "one"), finish(output, tmp_path / "other")
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}


def test_the_manifest_does_not_say_where_or_when(output: OutputFolder, tmp_path: Path) -> None:
    text = (finish(output, tmp_path / "somewhere") / MANIFEST).read_text()
    assert "somewhere" not in text
    assert "date" not in text


@pytest.mark.parametrize("choice", ["base", "file", "recipe"])
def test_the_chosen_chat_template_is_written(choice: str, output: OutputFolder, tmp_path: Path) -> None:
    (output.base_folder / "chat_template.jinja").write_text("of the base", encoding="utf-8")
    (tmp_path / "own.jinja").write_text("own ▁", encoding="utf-8")
    base = load_tokenizer(str(output.base_folder))
    wanted = str(tmp_path / "own.jinja") if choice == "file" else "base"
    chosen = dataclasses.replace(output, base=base, adapt={**output.adapt, "chat_template": wanted})
    if choice == "recipe":
        chosen = dataclasses.replace(chosen, chat_template="of the recipe")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}", encoding="utf-8")
    chosen.finish(out)
    expected = {"base": "of the base", "file": "own ▁", "recipe": "of the recipe"}[choice]
    assert load_tokenizer(str(out)).chat_template == expected
    assert "chat_template" not in read(out / "tokenizer_config.json")


def test_a_chat_template_that_is_nowhere_is_refused_early(output: OutputFolder) -> None:
    wrong = dataclasses.replace(output, adapt={**output.adapt, "chat_template": "tmeplate"})
    with pytest.raises(TokenAdaptError, match="chat_template: 'tmeplate' is neither 'target' nor 'base' nor a file"):
        wrong.check()


def test_stray_markers_are_warned_of(output: OutputFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataclasses.replace(output, chat_template="<|im_start|><|user|>").finish(_with_config(tmp_path / "out"))
    assert "'<|user|>'" in caplog.text
    assert "'<|im_start|>'" not in caplog.text


def _with_config(out: Path) -> Path:
    out.mkdir()
    (out / "config.json").write_text("{}", encoding="utf-8")
    return out


def test_a_bare_tokenizer_gets_a_config_with_the_roles_that_it_can_have(
    output: OutputFolder, load: Callable[..., TokenizerFiles], tmp_path: Path
) -> None:
    definition = plain_definition([*"abc"], [added("</s>", 3)], decoder=BYTE_LEVEL)
    target = load(definition)
    plan = make_transfer(output.base, target).make_plan()
    bare = dataclasses.replace(output, target=target, num_rows=4, plans=(plan,))
    out = finish(bare, tmp_path / "out")
    assert read(out / "tokenizer_config.json") == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }


def test_the_output_tells_mergekit_its_number_of_rows(output: OutputFolder) -> None:
    assert len(output.with_plans(list(output.plans)).get_vocab()) == 640


def test_a_finished_folder_loads_as_a_tokenizer(output: OutputFolder, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(finish(output, tmp_path / "out"))
    assert loaded("the river")["input_ids"] == output.target.fast_tokenizer().encode("the river").ids
    assert loaded.eos_token == "<|im_end|>"
