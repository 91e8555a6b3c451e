"""Auxiliary space of any model that the sentence-transformers library can load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.cached import CachedSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.extensions.extras import importing, require
from mergekit_tokenadapt.terminal.progress import shows_progress, without_loading_bar
from mergekit_tokenadapt.tokenizer.auto_tokenizer import without_dropout

BATCH_SIZE = 256
"""Number of texts in a batch. Token texts are only a few tokens long, so large batches fit into memory."""


class SentenceTransformersSpace(CachedSpace):
    """A sentence-transformers model: a hub id (``sentence-transformers/...``), or a folder with `modules.json`."""

    @classmethod
    def from_argument(cls, argument: str | None) -> SentenceTransformersSpace:
        """Construct the space from the folder or hub id of a model.

        Raises:
            TokenAdaptError: there is no argument, or sentence-transformers is not installed.
        """
        require("sentence_transformers", extra="embed", wanted_by=f"auxiliary {argument!r}")
        if argument is None:
            raise TokenAdaptError("auxiliary 'sentence-transformers' needs a model: sentence-transformers:FOLDER_OR_ID")
        return cls(argument)

    def compute(self, folder: Path, texts: Sequence[str], *, device: torch.device, quiet: bool) -> Tensor:
        """Embed texts, float32 [len(texts), dimensions]. The library batches them by length and shows its own bar."""
        with importing("sentence_transformers", extra="embed", wanted_by=f"auxiliary {self.name!r}"):
            from sentence_transformers import SentenceTransformer

        with without_loading_bar():
            model = SentenceTransformer(str(folder), device=str(device), trust_remote_code=False)
        without_dropout(getattr(model, "tokenizer", None))
        vectors: Tensor = model.encode(
            list(texts), batch_size=BATCH_SIZE, convert_to_tensor=True, show_progress_bar=shows_progress(quiet=quiet)
        )
        return vectors.float()
