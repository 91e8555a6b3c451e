"""Supertokens learned from text on a Ray cluster and from the same text in a file: the tokenizers are equal.

    pip install 'mergekit-tokenadapt[ray]'
    python -m examples.ray_cluster

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

from mergekit_tokenadapt.supertokens.folder import write_tokenizer
from mergekit_tokenadapt.supertokens.making import extend_folder, train_folder
from mergekit_tokenadapt.supertokens.options import Limits, TrainOptions
from mergekit_tokenadapt.supertokens.ray_corpus import RayCorpus
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.superwords import train_words
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.supertokens.word_patterns import byte_level_split, word_pattern
from mergekit_tokenadapt.tokenizer.files import load_tokenizer

WORKERS, BLOCKS = 2, 4
LIMITS = Limits(quiet=True)


def documents() -> list[str]:
    """Some text that every machine has: modules of Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    return [file.read_text(encoding="utf-8", errors="replace") for file in sorted(library.glob("*.py"))[:12]]


def learned(corpus: Corpus, base: Path, folder: Path) -> dict[str, bytes]:
    """A new vocabulary from the text, and tokens for an old one in place of its least used: both as files."""
    train_folder(folder / "trained", corpus, TrainOptions(vocab_size=600, limits=LIMITS), like=None)
    extend_folder(folder / "extended", load_tokenizer(str(base)), corpus, 50, Rules(), LIMITS, drop=True)
    return {name: (folder / name / "tokenizer.json").read_bytes() for name in ("trained", "extended")}


def main() -> None:
    """Learn from both, and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, texts = Path(temporary), documents()
        file = folder / "texts.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        base = folder / "base"
        words = train_words(Corpus([str(file)]), 500, [], byte_level_split(word_pattern()), LIMITS)
        write_tokenizer(base, words, {"made": "plain words"}, like=None)
        from_file = learned(Corpus([str(file)]), base, folder / "file")

        ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
        try:
            dataset = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=BLOCKS)
            from_cluster = learned(RayCorpus(dataset), base, folder / "cluster")
        finally:
            ray.shutdown()
    for name, content in from_file.items():
        same = content == from_cluster[name]
        print(f"{name}: {len(content):,} bytes from the file, {'the same' if same else 'OTHERS'} from the cluster")
    if from_file != from_cluster:
        sys.exit("the results differ")


if __name__ == "__main__":
    main()
