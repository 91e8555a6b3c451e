"""How a model is healed: every setting with its default. This module imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.options import Flag, Options, Seed


def _usable(device: str) -> str:
    from mergekit_tokenadapt.models.loading import choose_device

    choose_device(device)
    return device


Device = Annotated[str, AfterValidator(_usable)]
"""A device of torch that can be used here."""


class HealOptions(Options):
    """How `heal` trains, for how long, and what it measures."""

    minutes: PositiveFloat = Field(default=15.0, description="total time in minutes: reading, training, measuring")
    steps: Annotated[PositiveInt | None, Flag(default="as many as the time allows")] = Field(
        default=None, description="training steps"
    )
    max_bytes: Annotated[NonNegativeInt, Flag("bytes")] = Field(
        default=2_000_000, description="bytes of text to train on, a random sample of the passages; 0 for all"
    )
    train: Literal["lora", "all", "rows"] = Field(
        default="lora",
        description="what to train. lora: vocabulary rows, and adapters on all linear layers. all: all weights. "
        "rows: vocabulary rows only",
    )
    objective: Literal["base_model", "chunks", "next_token"] = Field(
        default="base_model",
        description="what is learned. base_model: what the base model predicts for the text. chunks: how likely the "
        "base model finds chunks of the text (ALM, arXiv 2503.20083). next_token: the text itself",
    )
    text_share: Annotated[float, Ge(0), Le(1)] = Field(
        default=0.15,
        description="share of each target that goes to the token that follows in the text; the rest is what the base "
        "model predicts",
    )
    plain_share: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.5,
        description="share of the passages that the base model does not read, so that more time is left for training: "
        "their targets are the tokens that follow in the text; only with the objective base_model",
    )
    own_passages: Annotated[NonNegativeInt, Flag("self", metavar="N")] = Field(
        default=0,
        description="passages that the base model writes itself, from single tokens of its vocabulary; they are mixed "
        "into the text",
    )
    copies: Annotated[float, Ge(0), Le(1)] = Field(
        default=0.06,
        description="amount of text that teaches copying (lines of random new tokens, each twice), as a share of the "
        "bytes of the user's text; only with the objective base_model",
    )
    rank: PositiveInt = Field(default=64, description="rank of the adapters")
    rate: Annotated[Annotated[float, Gt(0)] | None, Flag(default="0.005, or 0.001 with --train all")] = Field(
        default=None,
        description="learning rate of the adapters (with --train all: of the weights outside the vocabulary matrices), "
        "relative to the root mean square of those weights",
    )
    row_rate: PositiveFloat = Field(
        default=8e-3,
        description="learning rate of the vocabulary rows, relative to the root mean square of the rows",
    )
    interpolate: Annotated[float, Gt(0), Le(1)] = Field(
        default=0.75,
        description="share of the change that is kept: OUT's weights are MODEL's plus this share of the change. "
        "Below 1, kinds of text that were not trained on lose less",
    )
    passages_per_step: PositiveInt = Field(default=4, description="passages in a step")
    passage_bytes: Annotated[int, Ge(16)] = Field(default=1000, description="largest passage, in bytes")
    looks: PositiveInt = Field(default=4, description="number of measurements on held-out passages during training")
    held_out_bytes: PositiveInt = Field(
        default=4000, description="bytes of each text's held-out passages that a measurement reads"
    )
    probe_bytes: NonNegativeInt = Field(
        default=500, description="bytes of each built-in text that are measured before and after; 0 for none"
    )
    device: Annotated[Device | None, Flag(metavar="DEVICE", default="the best there is")] = Field(
        default=None, description="device to compute on: cpu, cuda, mps"
    )
    seed: Seed = Field(default=0, description="seed of the order of the passages, the adapters and the sampled tokens")

    @property
    def body_rate(self) -> float:
        """The given learning rate of the body, or the default for `train`."""
        return self.rate or {"lora": 5e-3, "rows": 5e-3, "all": 1e-3}[self.train]

    @property
    def unread_share(self) -> float:
        """The share of the passages that the base model does not read: `plain_share`, if the objective has it."""
        return self.plain_share if self.objective == "base_model" else 0.0

    def needed_packages(self) -> tuple[str, ...]:
        """Optional packages that training needs."""
        return ("accelerate", "peft") if self.train == "lora" else ("accelerate",)


class HealAfterOptions(Options):
    """Healing as the last stage of another command."""

    heal: bool = Field(
        default=False,
        description="train the new model for some minutes, as the command `heal` does. One matrix for input and output "
        "becomes two if held-out text then costs at least 0.5% fewer bits per byte; --untie or --no-untie "
        "decides it instead",
    )
    heal_minutes: Annotated[Annotated[float, Gt(0)] | None, Flag(default=str(HealOptions().minutes))] = Field(
        default=None, description="minutes of healing, in addition to the swap"
    )
    heal_texts: Annotated[
        tuple[str, ...],
        Flag(
            "heal-text",
            metavar="[NAME=]PATH",
            default="Python's own library, and sums; with the command supertokens, the text of --text",
        ),
    ] = Field(default=(), description="text for --heal, as `heal --text` takes it")

    @model_validator(mode="after")
    def _check_heal(self) -> HealAfterOptions:
        if not self.heal and (self.heal_texts or self.heal_minutes is not None):
            raise TokenAdaptError("--heal-minutes and --heal-text do nothing without --heal: add --heal")
        return self
