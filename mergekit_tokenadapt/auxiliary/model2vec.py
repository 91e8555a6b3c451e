"""Static embeddings of the model2vec library: much faster than an encoder, nearly as good for tokens."""

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
    """``auxiliary: model2vec:FOLDER_OR_ID``, or a folder with a model2vec `config.json`."""

    @classmethod
    def from_argument(cls, argument: str | None) -> Model2VecSpace:
        """The argument is a folder or a hub id."""
        require("model2vec", extra="model2vec", wanted_by=f"auxiliary {argument!r}")
        if argument is None:
            raise TokenAdaptError("auxiliary 'model2vec' needs a model: model2vec:FOLDER_OR_ID")
        return cls(argument)

    def compute(self, folder: Path, texts: Sequence[str], *, device: torch.device, quiet: bool) -> Tensor:
        """Vectors of all texts; on the CPU, whatever `device` is."""
        with importing("model2vec", extra="model2vec", wanted_by=f"auxiliary {self.name!r}"):
            from model2vec import StaticModel

        model = StaticModel.from_pretrained(str(folder))
        return torch.from_numpy(model.encode(list(texts), show_progress_bar=shows_progress(quiet=quiet))).float()
