"""Text on a Ray cluster, and the same in a file: the same tokenizers and the same rows, bit for bit.

    pip install 'mergekit-tokenadapt[ray]'
    python examples/ray_cluster.py                  # supertokens
    python examples/ray_cluster.py BASE TARGET      # and the output rows of BASE on TARGET, corrected with text

Starts a local cluster of two workers and shuts it down again. On a real cluster, leave out `ray.init` and set
RAY_ADDRESS; the dataset may then be as large as the cluster can read (`ray.data.read_parquet("s3://...")`).
"""

from __future__ import annotations

import json
import sys
import sysconfig
import tempfile
from pathlib import Path

import ray
import torch

from mergekit_tokenadapt.correction import CalibrationText, correct_output_rows
from mergekit_tokenadapt.supertokens.folder import write_tokenizer
from mergekit_tokenadapt.supertokens.making import TrainOptions, extend_folder, train_folder
from mergekit_tokenadapt.supertokens.pretokenizers import byte_level_split, word_pattern
from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.superwords import Limits, train_words
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.transfer import Transfer

WORKERS, BLOCKS = 2, 4
CALIBRATION_BYTES = 40_000
LIMITS = Limits(quiet=True)


def documents() -> list[str]:
    """Some text that every machine has: modules of Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    return [file.read_text(encoding="utf-8", errors="replace") for file in sorted(library.glob("*.py"))[:12]]


def learned(corpus: Corpus, base: Path, folder: Path) -> dict[str, bytes]:
    """A new vocabulary from the text, and tokens for an old one in place of its least used: both as files."""
    train_folder(folder / "trained", corpus, TrainOptions(600, limits=LIMITS), like=None)
    extend_folder(folder / "extended", load_tokenizer(str(base)), corpus, 50, Rules(), LIMITS, drop=True)
    return {name: (folder / name / "tokenizer.json").read_bytes() for name in ("trained", "extended")}


def corrected(base: str, target: str, text: CalibrationText) -> torch.Tensor:
    """Random rows for the tokens of TARGET, with the correction that a text gives them for the model BASE."""
    old, new = load_tokenizer(base), load_tokenizer(target)
    config = json.loads(Path(base, "config.json").read_text())
    mean = AdaptConfig(method="mean", rows="exact")
    transfer = Transfer.of(mean, base=old, target=new, base_rows=config["vocab_size"], quiet=True)
    plan = transfer.make_plan()
    correction = correct_output_rows(Path(base), transfer, plan, text, stays_tied=False)
    random = torch.randn(plan.num_rows, config["hidden_size"], generator=torch.Generator().manual_seed(0))
    return correction.apply(random, plan.origins)


def main() -> None:
    """Learn from both, and compare."""
    models = (sys.argv[1], sys.argv[2]) if len(sys.argv) > 2 else None
    torch.set_num_threads(1)  # as in each worker: the number of threads changes the last bits of sums
    with tempfile.TemporaryDirectory() as temporary:
        folder, texts = Path(temporary), documents()
        file = folder / "texts.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        base = folder / "base"
        words = train_words(Corpus([str(file)]), 500, [], byte_level_split(word_pattern()), LIMITS)
        write_tokenizer(base, words, {"made": "plain words"}, like=None)
        from_file = learned(Corpus([str(file)]), base, folder / "file")
        if models:
            rows = corrected(*models, CalibrationText.read(str(file), CALIBRATION_BYTES))

        ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
        try:
            dataset = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=BLOCKS)
            from_cluster = learned(RayCorpus(dataset), base, folder / "cluster")
            if models:
                text = CalibrationText.from_ray(dataset, CALIBRATION_BYTES, num_workers=WORKERS)
                same_rows = torch.equal(rows, corrected(*models, text))
        finally:
            ray.shutdown()
    for name, content in from_file.items():
        same = content == from_cluster[name]
        print(f"{name}: {len(content):,} bytes from the file, {'the same' if same else 'OTHERS'} from the cluster")
    if models:
        print(f"corrected output rows: {'the same' if same_rows else 'OTHERS'} from the cluster")
    if from_file != from_cluster or (models and not same_rows):
        sys.exit("the results differ")


if __name__ == "__main__":
    main()
