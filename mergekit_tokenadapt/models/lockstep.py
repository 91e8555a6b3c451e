"""A lockstep ensemble: a transformers model that averages the next-token probabilities of models on one vocabulary.

Importing this module registers the model type. ``AutoModelForCausalLM.from_pretrained`` then loads the folder of an
ensemble like any other model. Letters: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import PretrainedConfig as Config
from transformers.modeling_outputs import CausalLMOutputWithPast

from mergekit_tokenadapt.models.cache_names import OUTPUT_NAME, cache_argument, cache_of, takes_cache
from mergekit_tokenadapt.models.pad_positions import find_pad_positions

MODEL_TYPE = "tokenadapt_lockstep"
NEVER = -1e30
"""Log probability of ids without a token, until the average is made: with -inf the gradient would be NaN."""
MEANS = ("arithmetic", "geometric")
"""Kinds of averages of probabilities."""


class LockstepConfig(Config):  # type: ignore[misc]
    """The content of an ensemble's config.json."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        vocab_size: int = 0,
        members: Sequence[str] = (),
        weights: Sequence[float] = (),
        mean: str = "arithmetic",
        padding_ids: Sequence[int] = (),
        max_position_embeddings: int | None = None,
        **more: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.members = list(members)
        """Folders of the members, relative to the folder of the ensemble."""
        self.weights = list(weights)
        """Weight of each member; the weights sum to 1."""
        self.mean = mean
        """Average of probabilities: arithmetic, or geometric with normalization afterwards."""
        self.padding_ids = list(padding_ids)
        """Ids without a token. The ensemble gives them the probability 0."""
        self.max_position_embeddings = max_position_embeddings
        """The smallest number of positions of the members."""
        super().__init__(**more)


class LockstepCache:
    """The caches of the members. Each member makes a cache of its own type, and not every type knows its length."""

    def __init__(self, caches: Sequence[Any], length: int) -> None:
        self.caches = list(caches)
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of cached positions."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the batch, as beam search requires."""
        for cache in self.caches:
            cache.reorder_cache(beam_idx)

    def crop(self, max_length: int) -> None:
        """Drop positions, as assisted generation requires.

        Args:
            max_length: the number of positions to keep; if negative, the number to drop.
        """
        for cache in self.caches:
            cache.crop(max_length)
        self.length = max_length if max_length > 0 else self.length + max_length


class LockstepForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model that averages the probabilities of its members. Its logits are log probabilities.

    Args:
        config: the config of the ensemble.
        members: causal language models with `config.vocab_size` rows each and one common tokenizer.
    """

    config_class = LockstepConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LockstepConfig, members: Sequence[Any]) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(members)
        self._can_cache = all(map(takes_cache, members))
        self._first_positions = [_first_position(member) for member in members]

    @classmethod
    def from_pretrained(cls, folder: str, *_args: Any, config: Any = None, **options: Any) -> Any:
        """Load the ensemble and all its members.

        Args:
            folder: folder of the ensemble.
            config: config of the ensemble; None reads it from the folder.
            options: passed on to ``from_pretrained`` of each member.

        Returns:
            The model in evaluation mode. With ``output_loading_info=True``, the model and one report with the entries
            of all members.
        """
        with_report = options.pop("output_loading_info", False)
        config = config or LockstepConfig.from_pretrained(folder)
        members, reports = [], []
        for member in config.members:
            model, report = AutoModelForCausalLM.from_pretrained(
                str(Path(folder, member)), output_loading_info=True, **options
            )
            members.append(model)
            reports.append(report)
        ensemble = cls(config, members)
        ensemble.generation_config = GenerationConfig.from_pretrained(folder)
        ensemble.eval()
        if not with_report:
            return ensemble
        keys = {key for report in reports for key in report}
        return ensemble, {key: [name for report in reports for name in report.get(key) or ()] for key in keys}

    def save_pretrained(self, folder: str, **options: Any) -> None:
        """Write config and generation config into `folder`, and each member into its folder below."""
        member: Any
        for name, member in zip(self.config.members, self.members, strict=True):
            member.save_pretrained(Path(folder, name), **options)
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    def get_input_embeddings(self) -> Any:
        """Return the input embeddings of the first member."""
        first: Any = self.members[0]
        return first.get_input_embeddings()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # every member makes its own

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any
    ) -> dict[str, Any]:
        """Return the arguments of the next step of generation, without the tokens that the caches hold."""
        cache = more.get(OUTPUT_NAME)
        seen = cache.get_seq_length() if cache is not None else 0
        return {
            "input_ids": input_ids[:, seen:],
            OUTPUT_NAME: cache,
            "attention_mask": attention_mask,
            "use_cache": more.get("use_cache", True),
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: LockstepCache | None = None,
        cache: LockstepCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        **_more: Any,
    ) -> CausalLMOutputWithPast:
        """Run every member and average their probabilities.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, T with cached positions]; 0 for padding.
            past_key_values: the cache, by its older name in transformers.
            cache: the cache, by its newer name.
            use_cache: whether to return a cache. If a member takes none, each call needs the whole text.
            labels: int64 [B, T]; -100 for positions without loss.

        Returns:
            Log probabilities as ``logits``, float32 [B, T, V]. With `labels`, the mean loss of the next tokens in nats
            as ``loss``.
        """
        seen = cache if cache is not None else past_key_values
        use_cache = bool(use_cache) and self._can_cache
        caches = seen.caches if seen is not None else [None] * len(self.members)
        seen_length = seen.get_seq_length() if seen is not None else 0
        position_ids = _positions(input_ids, attention_mask, seen_length)
        average: Tensor | None = None
        kept = []
        for member, weight, own, first in zip(
            self.members, self.config.weights, caches, self._first_positions, strict=True
        ):
            out = member(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids + first,
                **({} if own is None else {cache_argument(member): own}),
                use_cache=use_cache,
            )
            kept.append(cache_of(out))
            average = self._add(average, self._log_probabilities(out.logits), float(weight))
        assert average is not None
        if self.config.mean == "geometric":
            average = torch.log_softmax(average, dim=-1)
        if self.config.padding_ids:
            average = average.clone()
            average[..., self.config.padding_ids] = -torch.inf
        loss = None
        if labels is not None:
            loss = nn.functional.nll_loss(average[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        kept_cache = LockstepCache(kept, seen_length + input_ids.shape[1]) if use_cache else None
        return CausalLMOutputWithPast(loss=loss, logits=average, **{OUTPUT_NAME: kept_cache})

    def _log_probabilities(self, logits_BTV: Tensor) -> Tensor:
        logits_BTV = logits_BTV.float()
        if self.config.padding_ids:
            logits_BTV[..., self.config.padding_ids] = NEVER
        return torch.log_softmax(logits_BTV, dim=-1)

    def _add(self, average: Tensor | None, member_BTV: Tensor, weight: float) -> Tensor:
        if self.config.mean == "geometric":
            share = weight * member_BTV
            return share if average is None else average + share
        # The log of a sum of weighted probabilities, computed without leaving log space, where nothing underflows.
        share = member_BTV + torch.log(torch.tensor(weight))
        return share if average is None else torch.logaddexp(average, share)


def _first_position(member: Any) -> int:
    """Return the number that a member gives to a text's first position. RoBERTa and its like count from the pad id."""
    found = find_pad_positions(member.config, member.state_dict())
    return found.pad + 1 if found is not None and found.tables else 0


def _positions(input_ids: Tensor, attention_mask: Tensor | None, seen_length: int) -> Tensor:
    """Return the position of each token after `seen_length` cached ones, int64 [B, T].

    Members are given positions, because not every one derives them. Bamba does not from its cache, whose first layer
    knows no length. Others do not from the mask, so that padding on the left would count.
    """
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
    return torch.arange(seen_length, seen_length + input_ids.shape[1], device=input_ids.device).expand_as(input_ids)


AutoConfig.register(MODEL_TYPE, LockstepConfig, exist_ok=True)
AutoModelForCausalLM.register(LockstepConfig, LockstepForCausalLM, exist_ok=True)
