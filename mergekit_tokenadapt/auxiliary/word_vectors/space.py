"""The auxiliary space of a file of word vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace, OwnedToken
from mergekit_tokenadapt.auxiliary.word_vectors.files import open_word_vectors
from mergekit_tokenadapt.auxiliary.word_vectors.of_tokens import MOST_WORDS, token_vectors
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter

FORMATS = "word2vec's text or binary format, or fastText's .bin"
_MOST = re.compile(r",words=([^,]*)$")
"""Matches the setting at the end of an argument."""


class WordVectorSpace(AuxiliarySpace):
    """A file of word vectors (word2vec, fastText): ``wordvectors:FILE``, ``wordvectors:FILE,words=N``, or the file.

    Args:
        name: path of the file.
        most: words to read, at most; the most frequent ones.

    Raises:
        TokenAdaptError: the file cannot be read.
    """

    def __init__(self, name: str, most: int = MOST_WORDS) -> None:
        self.words, self.most = open_word_vectors(name), most

    @classmethod
    def from_argument(cls, argument: str | None) -> WordVectorSpace:
        """Construct the space from a path and the number of words.

        Raises:
            TokenAdaptError: there is no argument, the number is no positive whole number, or the file cannot be read.
        """
        if argument is None:
            raise TokenAdaptError(f"auxiliary 'wordvectors' needs a file ({FORMATS}): wordvectors:FILE")
        setting = _MOST.search(argument)
        if setting is None:
            return cls(argument)
        if not re.fullmatch("[0-9]+", setting[1]) or int(setting[1]) < 1:
            raise TokenAdaptError(
                f"auxiliary 'wordvectors:{argument}': give the number of words to read, for instance words=200000"
            )
        return cls(argument[: setting.start()], int(setting[1]))

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Return the vectors of the texts that are words of the file, and zeros for the others, float32 [texts, A].

        Raises:
            TokenAdaptError: the file is malformed.
        """
        found = self.words.of_words([text.strip() for text in texts], self.most)
        nothing = np.zeros(self.words.dimensions, dtype=np.float32)
        return torch.from_numpy(np.array([found.get(text.strip(), nothing) for text in texts]))

    def embed_tokens(self, tokens: Sequence[OwnedToken], *, device: torch.device, quiet: bool = False) -> Tensor:
        """Return the vectors of tokens, see `token_vectors`. It runs on the CPU, so `device` is not used.

        Raises:
            TokenAdaptError: the file is malformed.
        """
        vectors_TA = torch.zeros(len(tokens), self.words.dimensions)
        for owner in {id(each.tokenizer): each.tokenizer for each in tokens}.values():
            places = [n for n, each in enumerate(tokens) if each.tokenizer is owner]
            segmenter = Segmenter(owner.definition, owner.vocabulary)
            own = [tokens[n].token for n in places]
            vectors_TA[places] = torch.from_numpy(
                token_vectors(self.words, own, segmenter, most=self.most, quiet=quiet)
            )
        return vectors_TA
