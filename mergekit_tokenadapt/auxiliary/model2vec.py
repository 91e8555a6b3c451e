"""Auxiliary space of a model2vec model: static embeddings, much faster than a transformer encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.cached import CachedSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing, require
from mergekit_tokenadapt.terminal.progress import shows_progress


class Model2VecSpace(CachedSpace):
    """Static embeddings of model2vec: ``model2vec:FOLDER_OR_ID``, or a folder with a model2vec `config.json`."""

    @classmethod
    def from_argument(cls, argument: str | None) -> Model2VecSpace:
        """Construct the space from the folder or hub id of a model.

        Raises:
            TokenAdaptError: there is no argument, or model2vec is not installed.
        """
        require("model2vec", extra="model2vec", wanted_by=f"auxiliary {argument!r}")
        if argument is None:
            raise TokenAdaptError("auxiliary 'model2vec' needs a model: model2vec:FOLDER_OR_ID")
        return cls(argument)

    def compute(self, folder: Path, texts: Sequence[str], *, device: torch.device, quiet: bool) -> Tensor:
        """Embed texts, float32 [len(texts), dimensions]. model2vec runs on the CPU, so `device` is not used."""
        with importing("model2vec", extra="model2vec", wanted_by=f"auxiliary {self.name!r}"):
            from model2vec import StaticModel

        model = StaticModel.from_pretrained(str(folder))
        return torch.from_numpy(model.encode(list(texts), show_progress_bar=shows_progress(quiet=quiet))).float()
