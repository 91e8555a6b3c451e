"""Pretrained hypernetworks that predict vocabulary rows for tokens of any tokenizer (ZeTT, arXiv 2405.07883).

A token is shown to the hypernetwork by its *surface form*: its bytes, written in the alphabet of byte-level BPE and
segmented by the hypernetwork's own tokenizer, which has the base model's ids.

Letters: N tokens, S length of surface forms, V rows of the base model, D width of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.terminal.progress import progress, without_loading_bar
from mergekit_tokenadapt.tokenizer.files import load_tokenizer, read_json
from mergekit_tokenadapt.tokenizer.spelling import byte_alphabet

BATCH = 2048
"""Tokens whose rows are predicted at a time."""


class Hypernetwork:
    """A hypernetwork with its tokenizer.

    Args:
        checkpoint: folder or hub id.
        device: to compute on.
        trust_remote_code: whether code of the checkpoint may run. Published checkpoints need it.

    Raises:
        TokenAdaptError: it cannot be loaded, needs code that may not run, or is no such hypernetwork.
    """

    def __init__(self, checkpoint: str, device: torch.device, *, trust_remote_code: bool) -> None:
        from transformers import AutoModel

        if read_json(Path(checkpoint) / "config.json").get("auto_map") and not trust_remote_code:
            raise TokenAdaptError(
                f"the hypernetwork {checkpoint} comes with code of its own: --trust-remote-code lets it run, if you "
                "trust its authors"
            )
        try:
            with without_loading_bar():
                model = AutoModel.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
        except Exception as error:  # code of others may raise anything
            raise TokenAdaptError(f"the hypernetwork {checkpoint} cannot be loaded: {first_line(error)}") from error
        longest = getattr(model.config, "hn_surface_maxlen", None)
        if not isinstance(longest, int):
            raise TokenAdaptError(f"{checkpoint} is no hypernetwork of ZeTT: its config has no hn_surface_maxlen")
        self._model, self._longest, self._device = model.to(device).eval(), longest, device
        tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
        self._pad = tokenizer.vocabulary.roles.get("pad", getattr(model.config, "pad_token_id", None) or 0)
        self._segmenter = tokenizer.fast_tokenizer().model

    def surface_forms(self, contents: Sequence[bytes]) -> tuple[Tensor, int]:
        """Return the surface forms of tokens, int64 [N, S], and how many are longer and lose their end.

        Args:
            contents: the bytes of each token.
        """
        alphabet, forms, num_cut = byte_alphabet(), torch.full((len(contents), self._longest), self._pad), 0
        for n, content in enumerate(contents):
            ids = [piece.id for piece in self._segmenter.tokenize("".join(alphabet[b] for b in content))]
            num_cut += len(ids) > self._longest
            kept = torch.tensor(ids[: self._longest], dtype=torch.int64)
            forms[n, : len(kept)] = kept
        return forms, num_cut

    @torch.no_grad()
    def predict(
        self, forms_NS: Tensor, source_V: Tensor, lang_index: int | None, *, quiet: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the rows of tokens.

        Args:
            forms_NS: int64 [N, S]: surface forms.
            source_V: float32 [V, D], or [V, 2 D] with the rows of both matrices of an untied base model side by side.
            lang_index: number of the language, for checkpoints that were trained with languages.
            quiet: no progress.

        Returns:
            Input rows, and output rows or None where these are the same; float32 [N, D] each, on the CPU.

        Raises:
            TokenAdaptError: the hypernetwork fails.
        """
        language = {} if lang_index is None else {"lang_index": torch.tensor(lang_index, device=self._device)}
        source_V = source_V.to(self._device)
        inputs, outputs = [], []
        with progress(total=len(forms_NS), desc="Rows from the hypernetwork", unit="token", quiet=quiet) as bar:
            for forms in forms_NS.split(BATCH):  # type: ignore[no-untyped-call]
                try:
                    made: Any = self._model(forms.to(self._device), source_embeddings=source_V, **language)
                    inputs.append(made[0].float().cpu())
                    outputs += [] if made[1] is None else [made[1].float().cpu()]
                except Exception as error:  # code of others may raise anything
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    raise TokenAdaptError(f"the hypernetwork failed on tokens of the target: {reason}") from error
                bar.update(len(forms))
        return torch.cat(inputs), torch.cat(outputs) if outputs else None
