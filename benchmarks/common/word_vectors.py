"""Word vectors for benchmarks, trained on the mixed text: published ones are too large to fetch for each run.

    python -m benchmarks.common.word_vectors      # trains them if they are missing, and prints the file's place

fastText (continuous bag of words, by gensim) learns them, with the settings with which WECHSEL's code trains vectors of
languages that have no published ones. All languages of the text share one space, so no dictionary is needed.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.common.texts import mixed
from examples.samples.debian_texts import CACHE

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+|\d|[^\w\s]|_")
"""A Chinese or Japanese character, a run of other letters, a digit, or another character."""
LEAST_COUNT = 2


def trained() -> Path:
    """Return a file of word vectors in word2vec's text format; it is made on the first call, in a minute."""
    file = CACHE / "mixed-words.vec"
    if file.is_file():
        return file
    from gensim.models import FastText

    lines = [line for text in sorted(mixed().iterdir()) for line in text.read_text(encoding="utf-8").splitlines()]
    sentences = [words for line in lines if (words := WORD.findall(line))]
    model = FastText(
        sentences,
        vector_size=100,
        negative=10,
        sg=0,
        min_n=5,
        max_n=5,
        epochs=20,
        min_count=LEAST_COUNT,
        bucket=500_000,
        seed=0,
        workers=1,  # with several, the vectors depend on their timing
    )
    stage = file.with_suffix(".partial")
    model.wv.save_word2vec_format(str(stage))  # sorted by frequency
    stage.rename(file)
    return file


if __name__ == "__main__":
    print(trained())
