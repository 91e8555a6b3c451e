"""Lines of text, in tokens where a test needs them."""

from mergekit_tokenadapt.tokenizer.alignment import Encoded

LINES = [
    "the river runs past the old mill and the miller counts the stones one by one",
    "    return walking(talking) + making[3]  # the words were singing in the ring",
    "der fluss fliesst an der alten muehle vorbei und der mueller zaehlt die steine",
    "bread and water, 12 + 30 = 42; naïve café, 漢字 and an emoji 🙂\n\n",
]


def encode(text, tokenizer):
    return Encoded.of(text, tokenizer.fast_tokenizer(), tokenizer.vocabulary)
