"""What a model writes, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """What follows a prompt."""

    ids: list[int]
    text: str
    """Without special tokens."""
    seconds: float
    """CPU time."""


def written(folder: Path, prompts: Sequence[str], num_tokens: int) -> list[Written]:
    """Continue each prompt greedily by exactly this many tokens.

    One thread, and its CPU time: other work on the machine hardly matters then. The first prompt is continued twice;
    the first time warms up.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    found = []
    for prompt in [prompts[0], *prompts]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        started = time.process_time()
        with torch.inference_mode():
            out = model.generate(
                ids,
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        seconds = time.process_time() - started
        new = out[0, ids.shape[1] :]
        found.append(Written(new.tolist(), tokenizer.decode(new, skip_special_tokens=True), seconds))
    return found[1:]
