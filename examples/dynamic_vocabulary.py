"""How much shorter does a prompt get with tokens made for the batch, and what does it cost?

    python -m examples.dynamic_vocabulary

SmolLM2-135M reads the beginnings of built-in documents in merged tokens, and is scored on what follows, in its
own tokens. Loss is compared with the same model reading the plain prompt.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from examples.samples import models

DEMO = Path(__file__).resolve().parent.parent / "demo"


@click.command()
@click.option("--method", "methods", multiple=True, default=("mean", "calibrated"), show_default=True)
@click.option("--merges", multiple=True, default=(0, 25, 100, 400), show_default=True)
@click.option("--text", "names", multiple=True, default=("prose", "de"), show_default=True)
@click.option("--prompt-tokens", default=160, show_default=True)
@click.option("--scored-tokens", default=40, show_default=True)
@click.option("--documents", default=8, show_default=True)
def main(
    methods: tuple[str, ...],
    merges: tuple[int, ...],
    names: tuple[str, ...],
    prompt_tokens: int,
    scored_tokens: int,
    documents: int,
) -> None:
    """Print a table."""
    from transformers import AutoModelForCausalLM

    from mergekit_tokenadapt.retokenization.dynamic import input_rows, merge_frequent_pairs
    from mergekit_tokenadapt.texts import builtin_text
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer
    from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig

    folder = models.smollm2()
    files, model = load_tokenizer(str(folder)), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    matrix, encoder = model.get_input_embeddings().weight.detach(), files.fast_tokenizer()
    table = Table("text", "method", "merges", "tokens of the prompts", "shorter by", "loss of what follows, nats")
    for name in names:
        whole = encoder.encode("\n".join(builtin_text(name).documents), add_special_tokens=False).ids
        length = prompt_tokens + scored_tokens
        blocks = [whole[n : n + length] for n in range(0, len(whole) - length + 1, length)][:documents]
        prompts = [ids[:prompt_tokens] for ids in blocks]
        plain = None
        for method in methods:
            for number in merges:
                batch = merge_frequent_pairs(prompts, files.vocabulary, number, num_rows=len(matrix))
                adapt = AdaptConfig(method=method)
                rows = input_rows(batch, files, matrix, adapt) if batch.new_tokens else matrix
                loss = mean_loss(model, rows, batch.sequences, [ids[prompt_tokens:] for ids in blocks])
                plain = loss if plain is None else plain
                before = sum(map(len, prompts))
                shorter = f"{1 - batch.num_tokens / before:.0%}"
                table.add_row(
                    name, method, str(number), f"{batch.num_tokens:,}", shorter, f"{loss:.3f} ({loss - plain:+.3f})"
                )
    Console().print(table)


@torch.inference_mode()
def mean_loss(model: Any, rows: torch.Tensor, prompts: list[list[int]], following: list[list[int]]) -> float:
    """Mean loss of the tokens that follow, after prompts of any tokens; nats."""
    total, count = 0.0, 0
    for prompt, after in zip(prompts, following, strict=True):
        inputs = rows[torch.tensor([*prompt, *after])][None]
        logits = model(inputs_embeds=inputs).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(after), reduction="sum"))
        count += len(after)
    assert math.isfinite(total)
    return total / count


if __name__ == "__main__":
    main()
