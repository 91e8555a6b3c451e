"""`draft`: the shortcut against speculative decoding as it is written in the paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from click.testing import Result
from small_models import with_position_table
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.draft import (
    DraftOptions,
    accepted_tokens,
    measure_draft,
    next_token_logits,
    rounds,
)
from mergekit_tokenadapt.models.folder import open_model
from mergekit_tokenadapt.models.generation import continue_prompts
from mergekit_tokenadapt.models.loading import load_model
from mergekit_tokenadapt.models.same_vocabulary import check_same_vocabulary
from mergekit_tokenadapt.texts import builtin_text

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")  # names that transformers is to drop

FEW = DraftOptions(new_tokens=24, prompt_tokens=8, prompts=6, proposed=3)


@pytest.fixture(scope="module")
def draft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with noise: a draft that is right now and then."""
    import shutil

    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("draft") / "draft"))

    def add_noise(tensors: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(1)
        for tensor in tensors.values():
            tensor += 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)

    tiny_models.edit_tensors(folder, add_noise)
    return folder


def test_more_tokens_than_positions_are_refused(tmp_path: Path, byte_level_folder: Path) -> None:
    folder = open_model(str(with_position_table(byte_level_folder, tmp_path / "short", positions=32)))
    with pytest.raises(TokenAdaptError, match=r"reads 28 tokens at most: 8 of a prompt and 24 new ones are too many"):
        measure_draft(folder, folder, [builtin_text("prose")], FEW)


def test_a_model_drafts_perfectly_for_itself(base: Path) -> None:
    folder = open_model(str(base))
    result = measure_draft(folder, folder, [builtin_text("prose")], FEW)
    for mode in ("greedy", "sampled"):
        assert result["modes"][mode]["acceptance"] == 1
        assert result["modes"][mode]["accepted_per_round"] == 3
    assert result["settings"]["prompts"] == 6


def speculative_decoding(
    target: Any, draft: Any, prompt: list[int], num_tokens: int, k: int
) -> tuple[list[int], list[int]]:
    """Greedy speculative decoding, step by step: the text, and the accepted tokens of each round."""
    ids, accepted = list(prompt), []
    while len(ids) < len(prompt) + num_tokens:
        guesses = list(ids)
        for _ in range(k):
            guesses.append(int(draft(torch.tensor([guesses])).logits[0, -1].argmax()))
        choices = target(torch.tensor([guesses])).logits[0].argmax(dim=-1).tolist()
        count = 0
        while count < k and guesses[len(ids) + count] == choices[len(ids) + count - 1]:
            count += 1
        ids = [*guesses[: len(ids) + count], choices[len(ids) + count - 1]]
        accepted.append(count)
    return ids, accepted


@torch.no_grad()
def test_greedy_rounds_equal_those_of_the_real_loop(base: Path, draft: Path) -> None:
    target_model, draft_model = (AutoModelForCausalLM.from_pretrained(f).eval() for f in (base, draft))
    token_ids = torch.from_numpy(open_model(str(base)).tokenizer.vocabulary.ids())
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for first in range(4, 12):
        prompt = [0, first, first + 1, first + 2]
        text = continue_prompts(target_model, torch.tensor([prompt]), 40, 0.0, token_ids, generator)[0].tolist()
        expected_text, expected = speculative_decoding(target_model, draft_model, prompt, 40, 3)
        assert text == expected_text[: len(text)]
        q = next_token_logits(draft_model, text, len(prompt), token_ids)
        accepted = accepted_tokens(q, q, torch.tensor(text[len(prompt) :]), 0.0, generator)
        found = rounds(accepted, 3)
        assert found == expected[: len(found)]
        assert len(found) >= len(expected) - 2
        seen |= set(found)
    assert len(seen) > 1  # the draft is right sometimes, and not always


def test_sampled_acceptance_is_the_overlap_of_the_distributions() -> None:
    # The papers' alpha: sum over the vocabulary of min(p, q).
    p = torch.tensor([0.5, 0.3, 0.2])
    q = torch.tensor([0.2, 0.2, 0.6])
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(p, 40000, replacement=True, generator=generator)
    accepted = accepted_tokens(p.log().expand(40000, 3), q.log().expand(40000, 3), draws, 1.0, generator)
    assert accepted.mean() == pytest.approx(float(torch.minimum(p, q).sum()), abs=0.01)


def test_rounds_by_hand() -> None:
    def of(bits: str, k: int) -> list[int]:
        return rounds(np.array([b == "1" for b in bits]), k)

    assert of("0000", 3) == [0, 0, 0, 0]
    assert of("1110", 3) == [3]  # three accepted, and the target's own fourth
    assert of("1111", 3) == [3]  # its own token counts as its own, whatever the draft would have said
    assert of("11", 3) == []  # the text ends inside the round
    assert of("10110", 1) == [1, 1, 0]


def test_ids_without_a_token_are_never_chosen(tmp_path: Path, english: Tokenizer) -> None:
    size = english.get_vocab_size()
    folder = tiny_models.write_model(tmp_path / "padded", english, rows=size + 16)
    tiny_models.edit_tensors(folder, lambda t: t["model.embed_tokens.weight"][size:].mul_(50))
    model = load_model(open_model(str(folder)))
    token_ids = torch.from_numpy(open_model(str(folder)).tokenizer.vocabulary.ids())
    text = continue_prompts(model, torch.tensor([[0, 5]]), 20, 0.0, token_ids, torch.Generator())
    assert text.max() < size


def test_different_vocabularies_are_refused(base: Path, out: Path) -> None:
    with pytest.raises(TokenAdaptError, match=r"ids are different tokens; id \d+ is '.*' in the draft and '.*' in the"):
        check_same_vocabulary(open_model(str(base)), open_model(str(out)))


Run = Callable[..., Result]


def test_draft_command(run: Run, base: Path, draft: Path) -> None:
    arguments = ("draft", base, draft, "--new-tokens", 10, "--prompts", 3, "--prompt-tokens", 6)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    modes = json.loads(result.stdout)["modes"]
    assert modes["greedy"]["tokens"] == 30
    assert 0 < modes["sampled"]["acceptance"] < 1
    assert run(*arguments, "--json").stdout == result.stdout
    assert "accepted per round" in " ".join(run(*arguments).stdout.split())


def test_draft_command_refuses_other_vocabularies(run: Run, base: Path, out: Path) -> None:
    result = run("draft", base, out)
    assert result.exit_code == 2
    assert "cannot draft for" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_prompts_that_are_too_long_are_refused(run: Run, base: Path) -> None:
    result = run("draft", base, base, "--builtin", "en", "--prompt-tokens", 100000)
    assert result.exit_code == 2
    assert "no document has the 100000 tokens of a prompt" in result.output


def test_a_continuation_shorter_than_a_round_is_refused(run: Run, base: Path) -> None:
    result = run("draft", base, base, "--new-tokens", 5, "--proposed", 5)
    assert result.exit_code == 2
    assert "are too few for a round" in result.output
