"""Measure how many of a draft model's tokens a target model accepts (speculative decoding).

In each round the draft proposes up to k tokens. The target accepts the first j of them and adds one token of its own. A
round therefore yields j + 1 tokens for one run of the target (Leviathan et al. 2023, arXiv 2211.17192). This module
counts rounds without running that loop:

- Greedy: the final text is the target's own greedy text, whatever the draft proposes. Token t counts as accepted if it
  is also the draft's most likely token.
- Sampled: the final text has the distribution of the target's own samples, whatever the draft proposes (appendix A.1).
  For a token x that the target drew, the probability that the draft proposed it and the target accepted it is
  ``min(p(x), q(x)) / p(x) = min(1, q(x) / p(x))``. A random number decides.

So the target continues the prompts, both models score the result once, and the rounds are counted.

Letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.options import DraftOptions
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.generation import continue_prompts
from mergekit_tokenadapt.models.loading import choose_device, choose_dtype, load_model
from mergekit_tokenadapt.models.same_vocabulary import check_same_vocabulary
from mergekit_tokenadapt.output.limits import passage_limit
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.encoded_text import start_token

NUM_STAGES = 4
"""Number of stages of progress: two models to load, and two modes."""


def measure_draft(
    target: ModelFolder,
    draft: ModelFolder,
    texts: Sequence[TextSet],
    options: DraftOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure greedy and sampled acceptance of a draft. The starts of documents are the prompts.

    Args:
        target: the large model.
        draft: the small model, with the same vocabulary.
        texts: texts whose documents are the prompts.
        options: see `DraftOptions`.
        progress: is called with a line for each of `NUM_STAGES` stages.

    Returns:
        The content of the report, see docs/evaluation.md.

    Raises:
        TokenAdaptError: an ordinary token has no row, the vocabularies differ, no document is long enough, or a model
            cannot be loaded.
    """
    options = options or DraftOptions()
    target, draft = target.with_own_rows(), draft.with_own_rows()
    check_same_vocabulary(target, draft)
    _check_positions((target, draft), options)
    prompts = make_prompts(target, texts, options)
    vocabulary = target.tokenizer.vocabulary
    token_ids = torch.from_numpy(vocabulary.ids())
    progress(f"loading {target.name}")
    target_model = load_model(target, device=options.device, dtype=options.dtype)
    progress(f"loading {draft.name}")
    draft_model = load_model(draft, device=options.device, dtype=options.dtype)
    modes = {}
    for mode, temperature in (("greedy", 0.0), ("sampled", options.temperature)):
        progress(f"{mode} continuations of {len(prompts)} prompts")
        generator = torch.Generator().manual_seed(options.seed)
        accepted = [
            _accepted_after(prompt, target_model, draft_model, options.new_tokens, temperature, token_ids, generator)
            for prompt in prompts
        ]
        modes[mode] = summarise(accepted, options.proposed)
    return {
        "command": "draft",
        "target": target.name,
        "draft": draft.name,
        "texts": [text.describe() for text in texts],
        "settings": _settings(options, num_prompts=len(prompts)),
        "modes": modes,
    }


def _check_positions(models: Sequence[ModelFolder], options: DraftOptions) -> None:
    """Refuse texts that are longer than a model's position table.

    Raises:
        TokenAdaptError: they are.
    """
    for model in models:
        most = passage_limit(model.config)
        if most is not None and options.prompt_tokens + options.new_tokens > most:
            raise TokenAdaptError(
                f"{model.name} reads {most} tokens at most: {options.prompt_tokens} of a prompt and "
                f"{options.new_tokens} new ones are too many (--prompt-tokens, --new-tokens)"
            )


def _settings(options: DraftOptions, *, num_prompts: int) -> dict[str, Any]:
    """Return the settings of a measurement as its report states them."""
    device = choose_device(options.device)
    return {
        "prompts": num_prompts,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "proposed": options.proposed,
        "temperature": options.temperature,
        "seed": options.seed,
        "device": str(device),
        "dtype": str(choose_dtype(options.dtype, device)).removeprefix("torch."),
    }


def _accepted_after(
    prompt: Sequence[int],
    target_model: Any,
    draft_model: Any,
    num_tokens: int,
    temperature: float,
    token_ids: Tensor,
    generator: torch.Generator,
) -> np.ndarray:
    """Continue a prompt with the target, and return which tokens it would accept from the draft, bool [num_tokens]."""
    text: list[int] = continue_prompts(
        target_model, torch.tensor([prompt]), num_tokens, temperature, token_ids, generator
    )[0].tolist()
    # The continuation was generated token by token with a cache. Both models now read the whole text once, so that
    # their logits come from the same computation.
    p_TV = next_token_logits(target_model, text, len(prompt), token_ids)
    q_TV = next_token_logits(draft_model, text, len(prompt), token_ids)
    chosen_T = torch.searchsorted(token_ids, torch.tensor(text[len(prompt) :]))
    return accepted_tokens(p_TV, q_TV, chosen_T, temperature, generator)


def make_prompts(target: ModelFolder, texts: Sequence[TextSet], options: DraftOptions) -> list[list[int]]:
    """Return the start token and the first tokens of each document that has enough of them. Texts take turns.

    Raises:
        TokenAdaptError: no document has enough tokens.
    """
    encoder, start = target.tokenizer.fast_tokenizer(), start_token(target.tokenizer.vocabulary)
    prefix = [] if start is None else [start]
    by_text = [[encoder.encode(d, add_special_tokens=False).ids for d in text.documents] for text in texts]
    longest = max(len(documents) for documents in by_text)
    in_turn = [documents[n] for n in range(longest) for documents in by_text if n < len(documents)]
    prompts = [prefix + ids[: options.prompt_tokens] for ids in in_turn if len(ids) >= options.prompt_tokens]
    if not prompts:
        raise TokenAdaptError(f"no document has the {options.prompt_tokens} tokens of a prompt: set --prompt-tokens")
    return prompts[: options.prompts]


@torch.inference_mode()
def next_token_logits(model: Any, ids: Sequence[int], first: int, token_ids: Tensor) -> Tensor:
    """Return the logits that predict the tokens from position `first` on, float32 [T, V], on the CPU.

    Args:
        model: a causal language model of transformers.
        ids: token ids.
        first: position of the first token to predict.
        token_ids: the ids that have a token, int64 [V]. Only their logits are returned.
    """
    logits = model(torch.tensor([list(ids)], device=model.device)).logits[0, first - 1 : -1]
    return torch.as_tensor(logits).float().cpu()[:, token_ids]


def accepted_tokens(
    p_TV: Tensor, q_TV: Tensor, chosen_T: Tensor, temperature: float, generator: torch.Generator
) -> np.ndarray:
    """Return for each token of the target's text whether the target would have accepted it from the draft, bool [T].

    Args:
        p_TV: the target's logits.
        q_TV: the draft's logits.
        chosen_T: position in V of each token of the text, int64.
        temperature: temperature of both models; 0 for greedy.
        generator: generator of the random numbers in the sampled mode.
    """
    if temperature == 0:
        return np.asarray((q_TV.argmax(dim=1) == chosen_T).numpy())
    log_p_T = (p_TV / temperature).log_softmax(1).gather(1, chosen_T[:, None]).squeeze(1)
    log_q_T = (q_TV / temperature).log_softmax(1).gather(1, chosen_T[:, None]).squeeze(1)
    coins_T = torch.rand(len(chosen_T), generator=generator)
    return np.asarray((coins_T < (log_q_T - log_p_T).exp()).numpy())


def rounds(accepted_T: np.ndarray, num_proposed: int) -> list[int]:
    """Return the number of accepted tokens of each round.

    A round has up to `num_proposed` accepted tokens in a row, followed by one token of the target. A last round without
    that token is not counted, because its number of accepted tokens is unknown.

    >>> rounds(np.array([True, False, True, True, True, False]), 2)
    [1, 2, 0]
    """
    lengths, start = [], 0
    while start < len(accepted_T):
        length = 0
        while length < num_proposed and start + length < len(accepted_T) and accepted_T[start + length]:
            length += 1
        if start + length == len(accepted_T):  # the text ends before the round's last token
            break
        lengths.append(length)
        start += length + 1
    return lengths


def summarise(accepted: Sequence[np.ndarray], num_proposed: int) -> dict[str, Any]:
    """Return the share of accepted tokens, and the means of accepted and of generated tokens per round, over all
    prompts.
    """
    lengths = np.array([length for accepted_T in accepted for length in rounds(accepted_T, num_proposed)])
    every = np.concatenate(accepted)
    mean = float(lengths.mean())
    return {
        "tokens": len(every),
        "acceptance": float(every.mean()),
        "rounds": len(lengths),
        "accepted_per_round": mean,
        "tokens_per_round": mean + 1,
        "rounds_by_accepted": np.bincount(lengths, minlength=num_proposed + 1).tolist(),
    }
