"""Distil between two tokenizers with TRL, as if there were one: Gemma 3 270M teaches SmolLM2-135M.

    pip install 'mergekit-tokenadapt[demo]' trl
    python -m examples.distill

`distill-prep` puts the student on the teacher's vocabulary; TRL's GKDTrainer, which asks for one
vocabulary, then runs as it is. Text: Python's reference manual. Printed: bits per byte of held-out topics for the
teacher, the student before and after the swap, and the student after a few steps of training.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.samples import models, python_texts

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"


@click.command()
@click.option("--method", default="calibrated", show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--batch-size", default=2, show_default=True)
@click.option("--length", default=128, show_default=True, help="Tokens of an example.")
@click.option("--test-bytes", default=6000, show_default=True)
def main(method: str, steps: int, batch_size: int, length: int, test_bytes: int) -> None:
    """Prepare, measure, train, measure."""
    from mergekit_tokenadapt.two_models.prepare import prepare_student

    torch.manual_seed(0)
    teacher = models.gemma3()
    student = models.smollm2()
    out = DEMO / f"SmolLM2-gemma-{method}"
    if not out.is_dir():
        adapt = {"method": method, "chat_template": "base"}
        prepare_student(str(teacher), str(student), str(out), adapt)
    train, held_out = python_texts.split(python_texts.python_manual())
    text = "\n\n".join(held_out).encode()[:test_bytes].decode("utf-8", "ignore")
    for name, folder in (("teacher", teacher), ("student", student), ("student, swapped", out)):
        report(name, load(folder), AutoTokenizer.from_pretrained(str(folder)), text)
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    started = time.perf_counter()
    trained = distil(load(out), load(teacher), tokenizer, train, steps=steps, batch_size=batch_size, length=length)
    seconds = time.perf_counter() - started
    report(f"after {steps} steps ({steps * batch_size * length:,} tokens, {seconds:.0f} s)", trained, tokenizer, text)
    click.echo(f"{len(text.encode()):,} bytes of held-out text; no more than a sign of life: a real run is longer")


def distil(model: Any, teacher: Any, tokenizer: Any, documents: list[str], **how: int) -> Any:
    """A few steps of TRL's GKDTrainer on the documents, off policy (``lmbda=0``)."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    ids = python_texts.blocks(documents, tokenizer, how["length"])
    work = DEMO / "distill-work"
    config = GKDConfig(
        output_dir=str(work),
        max_steps=how["steps"],
        per_device_train_batch_size=how["batch_size"],
        learning_rate=5e-5,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        lmbda=0.0,  # on the text, not on the student's own samples
        beta=0.0,  # Kullback and Leibler's divergence from the teacher
        temperature=1.0,
        max_length=how["length"],
        seed=0,
    )
    trainer = GKDTrainer(
        model=model,
        teacher_model=teacher,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        data_collator=collate,
    )
    trainer.train()
    shutil.rmtree(work, ignore_errors=True)
    return trainer.model.eval()


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Blocks of equal length: nothing to pad, all tokens count."""
    ids = torch.tensor([example["input_ids"] for example in examples])
    # GKD takes the length of the longest prompt off the front; the first token is predicted from nothing.
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), "prompts": ids[:, :1]}


def load(folder: Path) -> Any:
    """A model in float32."""
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def report(name: str, model: Any, tokenizer: Any, text: str) -> None:
    """One line: bits per byte."""
    from mergekit_tokenadapt.evaluation import bits_per_byte

    click.echo(f"{name:50}{bits_per_byte(model, tokenizer, text):.3f} bits per byte")


if __name__ == "__main__":
    main()
