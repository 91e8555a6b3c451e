"""The model as it is trained: its body with adapters, and the rows that the text says something about.

Letters: B passages, T positions, V rows, A trained rows, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import one_error
from mergekit_tokenadapt.healing.chunks import chunk_loss
from mergekit_tokenadapt.healing.loss import exact_dtype, target_loss
from mergekit_tokenadapt.healing.options import HealOptions
from mergekit_tokenadapt.models.body import body_of

ADAPTER_ALPHA = 1.0
"""The factor of the adapters' product: `lora_alpha` is this times the rank."""
SHORT_PASSAGE = 2000
"""Bytes. On a CPU, steps with shorter passages use attention by plain matrix products. The backward pass of fused
attention takes so long there that a step takes 1.27 times as long with passages of 600 bytes, and 1.1 times with 2,000.
The memory of plain attention grows with the square of the length."""


class HealingModel(torch.nn.Module):
    """A causal language model whose forward pass gives the loss of a training step.

    While it is trained, its input embedding holds the trained rows alone, and ids are places among them. `whole` puts
    all rows in place: it writes the trained ones into the model's own matrices, so that no other copy of these is made.

    Args:
        model: of transformers, in float32; changed in place.
        trained: int64 [A]: the rows to train.
        scale: the factor between hidden state times output matrix and logits.
        options: what to train.
    """

    def __init__(self, model: Any, trained: Tensor, scale: float, options: HealOptions) -> None:
        super().__init__()
        self._scale = scale
        self._loss_of = chunk_loss if options.objective == "chunks" else target_loss
        self._embedding = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self.is_tied = self._head.weight is self._embedding.weight
        self._input_rows = self._embedding.weight.detach()
        self._output_rows = self._head.weight.detach()
        # The gradient of this row would be thrown away, whatever token has its place now.
        self._embedding.padding_idx = None
        self._trained = trained.to(self._input_rows.device)
        self.body_scale = _body_scale(model, self._head)
        """Root mean square of the weights of the body's linear layers, before training."""
        model.requires_grad_(options.train == "all")
        self._head.weight = _fixed(self._output_rows)
        self._embedding.weight = _fixed(self._input_rows)
        self.adapted = with_adapters(model, options) if options.train == "lora" else None
        self.model = model
        self._attention = model.config._attn_implementation
        self._has_short_passages = options.passage_bytes <= SHORT_PASSAGE
        self._attend_for_training()
        self.rows = torch.nn.Parameter(self._input_rows[trained])
        self.output_rows = None if self.is_tied else torch.nn.Parameter(self._output_rows[trained])
        self.row_scales = [_root_mean_square([rows]) for rows in self.row_parameters()]
        """The root mean square of the trained rows of each matrix, before training."""
        self._embedding.weight = self.rows

    def forward(self, input_ids: Tensor, others: Tensor, **targets: Tensor) -> dict[str, Tensor]:
        """The loss of a step, as `loss`; see the collators for the input."""
        states_BTD = self._body(input_ids, use_cache=False)[0]
        loss = self._loss_of(
            states_BTD.flatten(0, 1) * self._scale,
            self.rows if self.output_rows is None else self.output_rows,
            self._output_rows[others],
            num_others=len(self._output_rows) - len(self._trained),
            **targets,
        )
        return {"loss": loss}

    @cached_property
    def _body(self) -> Any:
        """The part of the model before its output matrix. As an attribute it would be registered a second time."""
        return body_of(self.model)

    def row_parameters(self) -> list[torch.nn.Parameter]:
        """The trained rows of each matrix."""
        return [self.rows] if self.output_rows is None else [self.rows, self.output_rows]

    def body_parameters(self) -> list[torch.nn.Parameter]:
        """All that is trained but rows."""
        rows = {id(parameter) for parameter in self.row_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in rows]

    def trained_tensors(self) -> dict[str, Tensor]:
        """By name, all that training changes, for a checkpoint."""
        found = {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `trained_tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(tensors[name])

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The model of transformers with all rows, to be measured; then as it was."""
        was_training = self.training
        self.eval()
        # The module list holds the parameters of training: these stand beside them for a while.
        self._put_rows()
        self.model.set_attn_implementation(self._attention)
        try:
            yield self.model
        finally:
            self._embedding.weight = self.rows
            self._attend_for_training()
            self.train(was_training)

    def finished(self) -> Any:
        """The model of transformers with all rows, adapters merged. Training cannot go on after it."""
        self._put_rows()
        self.model.set_attn_implementation(self._attention)
        if self.adapted is not None:
            self.model = self.adapted.merge_and_unload()
            self.adapted = None
        return self.model.eval()

    def _attend_for_training(self) -> None:
        is_cpu = self._input_rows.device.type == "cpu"
        if is_cpu and self._has_short_passages and type(self.model)._can_set_attn_implementation():
            self.model.set_attn_implementation("eager")

    @torch.no_grad()
    def _put_rows(self) -> None:
        self._input_rows[self._trained] = self.rows.to(self._input_rows)
        if self.output_rows is not None:
            self._output_rows[self._trained] = self.output_rows.to(self._output_rows)
        # A wrapper for several processes may have copied the parameter that was made of this matrix before.
        self._head.weight = _fixed(self._output_rows)
        self._embedding.weight = self._head.weight if self.is_tied else _fixed(self._input_rows)


def _body_scale(model: Any, head: Any) -> float:
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    # A body without linear layers (GPT-2 has layers of its own class): all its matrices.
    return _root_mean_square(layers or [p for p in model.base_model.parameters() if p.dim() > 1])


def _root_mean_square(tensors: Sequence[Tensor]) -> float:
    squares = sum(float(t.detach().to(exact_dtype(t.device)).square().sum()) for t in tensors)
    return math.sqrt(squares / sum(t.numel() for t in tensors))


def _fixed(matrix: Tensor) -> torch.nn.Parameter:
    """A parameter that is not trained."""
    return torch.nn.Parameter(matrix, requires_grad=False)


def _unusual_layers(model: Any) -> list[str]:
    """Return the names of linear layers that give more than a product, as Llama 4's router, which gives a tuple."""
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    own = ((name, module) for name, module in linear if type(module).forward is not torch.nn.Linear.forward)
    return [name for name, module in own if not _gives_a_product(module)]


@torch.no_grad()
def _gives_a_product(layer: torch.nn.Linear) -> bool:
    """Whether a layer with a forward pass of its own (Falcon's are) gives one tensor, as linear layers do."""
    try:
        given = layer(layer.weight.new_zeros(1, 1, layer.in_features))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return isinstance(given, Tensor) and given.shape == (1, 1, layer.out_features)


def with_adapters(model: Any, options: HealOptions) -> Any:
    """The model with adapters on all linear layers but the output matrix; their product is zero at first.

    Raises:
        TokenAdaptError: PEFT has no adapters for a layer of the model.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=int(ADAPTER_ALPHA * options.rank),
        target_modules="all-linear",
        exclude_modules=_unusual_layers(model),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that will go
        with one_error("this model cannot get adapters (heal --train rows and heal --train all need none)"):
            return get_peft_model(model, config)
