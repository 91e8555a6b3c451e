"""Word vectors: reading them from files, and making vectors of tokens from them."""

from mergekit_tokenadapt.auxiliary.word_vectors.files import open_word_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.of_tokens import MOST_WORDS, token_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.reading import WordVectors

__all__ = ["MOST_WORDS", "WordVectors", "open_word_vectors", "token_vectors"]
