"""Compute a correction from a text and a plan: read the text twice, shard by shard, and fit.

The results of each shard are kept on disk until the fit is complete, so an interrupted run continues where it
stopped.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.correction.correction import (
    Correction,
    CorrectionReport,
    Positions,
    choose_strength,
    fit_change,
)
from mergekit_tokenadapt.correction.states import Reader
from mergekit_tokenadapt.correction.targets import TargetMaker
from mergekit_tokenadapt.correction.text import CalibrationText
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.models.loading import fast_dtype, load_model
from mergekit_tokenadapt.models.losses import token_losses
from mergekit_tokenadapt.numerics.sparse_rows import SparseRows
from mergekit_tokenadapt.storage.model_state import state_of
from mergekit_tokenadapt.storage.shards import resumed, shard_folder
from mergekit_tokenadapt.terminal.progress import progress
from mergekit_tokenadapt.tokenizer.alignment import Encoded
from mergekit_tokenadapt.tokenizer.encoded_text import first_token
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.transfer.matching import VocabularyMap
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.row_regression import Fit
from mergekit_tokenadapt.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)

SHARD = 16
"""Passages whose results are stored in one file."""


def correct_output_rows(
    model: Path,
    transfer: Transfer,
    plan: TransferPlan,
    text: CalibrationText,
    *,
    stays_tied: bool,
    input_fit: Fit | None = None,
    output_fit: Fit | None = None,
    trust_remote_code: bool = False,
) -> Correction:
    """Fit a correction of a transplanted model's output rows.

    Args:
        model: folder of the base model.
        transfer: the transfer from its tokenizer to the new one. Its device is used for all computation.
        plan: the plan of the new rows.
        text: the calibration text.
        stays_tied: whether the corrected rows are input rows, too. The fit does not know how new input rows change the
            hidden states. Its strength is therefore chosen by reading the held-out passages again at each strength.
        input_fit: the plan's regression fitted on the model's input matrix; with None it is fitted here.
        output_fit: the same for its output matrix.
        trust_remote_code: whether transformers may run code from the model's folder.

    Raises:
        TokenAdaptError: the model cannot be loaded, or has no plain output matrix.
    """
    folder = ModelFolder(str(model), model, transfer.base, trust_remote_code)
    if folder.checkpoint.tables.per_layer:
        raise TokenAdaptError(
            "calibration_text cannot be used with this model: it has an embedding table for each layer, and only the "
            "input matrix would have the new rows"
        )
    with Reader(_load(folder, transfer.device)) as reader:
        input_use = MatrixUse.TIED if stays_tied else MatrixUse.INPUT
        new_inputs = plan.apply(reader.input_rows, use=input_use, fit=input_fit).rows
        new_outputs = new_inputs
        if not stays_tied:
            new_outputs = plan.apply(reader.output_rows, use=MatrixUse.OUTPUT, fit=output_fit).rows
        reading = _Reading.prepare(reader, transfer, plan.mapping, text, new_inputs)
        with shard_folder(f"text-{_key(model, transfer, text, new_inputs)}") as shards:
            names = {places: f"{places.start:06d}" for places in _places(len(text.passages))}
            parts = [
                resumed(shards, name, partial(reading.shard, places))
                for places, name in _progress(names, quiet=transfer.quiet)
            ]
            positions, base_bits = _join(parts, text)
            fitted = fit_change(new_outputs.float(), plan.origins, positions, quiet=transfer.quiet)
            change = fitted.change()
            if stays_tied:
                strength, before, after = choose_strength(
                    lambda s: reading.held_out_bits(change.scaled(s).apply(new_outputs, plan.origins))
                )
            else:
                strength, before, after = choose_strength(fitted.held_out_bits)
    if not strength:
        LOG.warning("calibration_text: no correction of the output rows helps on the held-out passages: none is made")
    held_out_bytes = sum(len(p.encode("utf-8")) for n, p in enumerate(text.passages) if text.is_held_out(n))
    report = CorrectionReport(
        text=text.describe(),
        tokens=len(positions.next_ids),
        shifted_rows=len(change.ids),
        strength=strength,
        base=base_bits / held_out_bytes,
        before=before / held_out_bytes,
        after=after / held_out_bytes,
    )
    return Correction(change.scaled(strength), report)


def _load(folder: ModelFolder, device: torch.device) -> Any:
    return load_model(folder, device=str(device), dtype=fast_dtype(device))


@dataclass(frozen=True)
class _Reading:
    """Reads shards of the text with the base model and with the transplanted model."""

    reader: Reader
    pairs: list[tuple[Encoded, Encoded]]
    """Every passage in old and in new tokens."""
    targets: TargetMaker
    starts: tuple[int, int]
    """Ids of the old and of the new start token."""
    new_inputs: Tensor
    """float [R, D]: the input matrix of the transplanted model."""
    text: CalibrationText

    @classmethod
    def prepare(
        cls, reader: Reader, transfer: Transfer, mapping: VocabularyMap, text: CalibrationText, new_inputs: Tensor
    ) -> _Reading:
        base, target = transfer.base.vocabulary, transfer.target.vocabulary
        old_encoder, new_encoder = transfer.base.fast_tokenizer(), transfer.target.fast_tokenizer()
        pairs = [(Encoded.of(p, old_encoder, base), Encoded.of(p, new_encoder, target)) for p in text.passages]
        segmenter = Segmenter(transfer.target.definition, target)
        targets = TargetMaker(base, transfer.base_rows, target, mapping, segmenter, pairs)
        return cls(reader, pairs, targets, (first_token(base), first_token(target)), new_inputs, text)

    def shard(self, places: range) -> dict[str, Tensor]:
        """Read some passages with both models.

        Returns:
            By name, over the P new tokens of the passages: hidden states [P, D], next ids and passage numbers [P], the
            target distributions in three tensors, and the base model's loss on held-out passages in bits.
        """
        pairs = [self.pairs[n] for n in places]
        rows = self.reader.output_rows
        old_rows = rows.float()
        targets, bits = [], 0.0
        read = self.reader.read([old.ids.tolist() for old, _ in pairs], self.starts[0], self.reader.input_rows)
        for n, (old, new), states in zip(places, pairs, read, strict=True):
            targets.append(self.targets.make(old, new, states, old_rows))
            if self.text.is_held_out(n):
                bits += _bits(states, old_rows, old)
        read = self.reader.read([new.ids.tolist() for _, new in pairs], self.starts[1], self.new_inputs)
        joined = SparseRows.concatenate(targets)
        return {
            "states": torch.cat([_halved(states.cpu()) for states in read]),
            "next_ids": torch.cat([torch.from_numpy(new.ids) for _, new in pairs]),
            "passages": torch.cat([torch.full((len(new.ids),), n) for n, (_, new) in zip(places, pairs, strict=True)]),
            "indptr": joined.indptr,
            "ids": joined.ids.int(),
            "weights": joined.weights,
            "base_bits": torch.tensor(bits, dtype=torch.float64),
        }

    def held_out_bits(self, rows: Tensor) -> float:
        """Return the loss on the held-out passages in bits, with these rows as input and output matrix."""
        passages = [new for n, (_, new) in enumerate(self.pairs) if self.text.is_held_out(n)]
        read = self.reader.read([new.ids.tolist() for new in passages], self.starts[1], rows)
        return sum(_bits(states, rows.float(), new) for new, states in zip(passages, read, strict=True))


def _bits(states: Tensor, rows: Tensor, passage: Encoded) -> float:
    losses = token_losses(states @ rows.T, torch.from_numpy(passage.ids).to(states.device))
    return float(losses.sum()) / math.log(2)


def _join(parts: list[dict[str, Tensor]], text: CalibrationText) -> tuple[Positions, float]:
    passages = torch.cat([p["passages"] for p in parts])
    held_out = torch.tensor([text.is_held_out(n) for n in range(len(text.passages))])
    positions = Positions(
        states_PD=torch.cat([p["states"] for p in parts]),
        next_ids=torch.cat([p["next_ids"] for p in parts]),
        targets=SparseRows.concatenate([SparseRows(p["indptr"], p["ids"].long(), p["weights"]) for p in parts]),
        is_held_out=held_out[passages],
    )
    return positions, float(sum(p["base_bits"] for p in parts))


def _halved(states: Tensor) -> Tensor:
    """Return the states in float16, to halve the memory, unless a value overflows."""
    half = states.half()
    return half if half.isfinite().all() else states


def _places(num_passages: int) -> list[range]:
    """Return the numbers of the passages of each shard."""
    return [range(first, min(first + SHARD, num_passages)) for first in range(0, num_passages, SHARD)]


def _progress(names: Mapping[range, str], *, quiet: bool) -> Iterator[tuple[range, str]]:
    """Yield the passage numbers and the name of each shard while a progress bar counts passages."""
    total = sum(map(len, names))
    with progress(total=total, desc="Reading the text", unit="passage", quiet=quiet) as bar:
        for places, name in names.items():
            yield places, name
            bar.update(len(places))


def _key(model: Path, transfer: Transfer, text: CalibrationText, new_inputs: Tensor) -> str:
    """Return a hash of everything that the content of a shard depends on."""
    digest = hashlib.sha256(text.describe()["sha256"].encode())
    digest.update(state_of(model).encode())
    for tokenizer in (transfer.base, transfer.target):
        for file in tokenizer.files():
            digest.update(file.read_bytes())
    digest.update(new_inputs.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:40]
