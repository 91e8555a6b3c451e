"""Auxiliary space of a transformers encoder with mean pooling, as in the code of the TokenAdapt paper.

Letters: B texts in a batch, T tokens, A dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary.cached import CachedSpace
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.progress import progress, without_loading_bar
from mergekit_tokenadapt.tokenizer.auto_tokenizer import without_dropout

BATCH_SIZE = 256
"""Number of texts in a batch."""


class TransformerSpace(CachedSpace):
    """An encoder with mean pooling: ``transformer:FOLDER_OR_ID``, or a folder with an encoder's `config.json`."""

    @classmethod
    def from_argument(cls, argument: str | None) -> TransformerSpace:
        """Construct the space from the folder or hub id of a model.

        Raises:
            TokenAdaptError: there is no argument.
        """
        if argument is None:
            raise TokenAdaptError("auxiliary 'transformer' needs a model: transformer:FOLDER_OR_ID")
        return cls(argument)

    @torch.inference_mode()
    def compute(self, folder: Path, texts: Sequence[str], *, device: torch.device, quiet: bool) -> Tensor:
        """Average the last hidden states over the tokens of each text, float32 [len(texts), A], on the CPU."""
        from transformers import AutoModel, AutoTokenizer

        tokenizer = without_dropout(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False))
        with without_loading_bar():
            model = AutoModel.from_pretrained(str(folder), trust_remote_code=False).to(device).eval()
        # Batches of similar length need little padding.
        order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
        vectors: Tensor | None = None
        for start in progress(range(0, len(order), BATCH_SIZE), desc=f"Embedding {len(texts):,} texts", quiet=quiet):
            places = order[start : start + BATCH_SIZE]
            batch = tokenizer([texts[n] for n in places], padding=True, truncation=True, return_tensors="pt").to(device)
            hidden_BTA = model(**batch).last_hidden_state.float()
            mask_BT1 = batch["attention_mask"].unsqueeze(-1)
            pooled_BA = (hidden_BTA * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
            if vectors is None:
                vectors = torch.zeros(len(texts), pooled_BA.shape[1])
            vectors[places] = pooled_BA.cpu()
        return torch.zeros(0, 1) if vectors is None else vectors
