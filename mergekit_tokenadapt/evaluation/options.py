"""Options of the evaluation commands: every name, default and meaning. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import (
    BeforeValidator,
    DirectoryPath,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.healing.options import Device
from mergekit_tokenadapt.options import Flag, Options, Seed
from mergekit_tokenadapt.texts import LANGUAGES, TextSet, read_text

DType = Literal["float32", "bfloat16", "float16"]
"""Dtypes that models can run in."""
DeviceField = Annotated[Device | None, Flag(metavar="DEVICE", default="a GPU if there is one")]
DTypeField = Annotated[DType | None, Flag(default="float32 on a CPU")]
DEVICE, DTYPE = "device to run on: cpu, cuda, cuda:1, mps", "dtype of the loaded weights"


class CompareOptions(Options):
    """Options of `compare`."""

    window: Annotated[Annotated[int, Ge(2)] | None, Flag(default="1024 or the context length")] = Field(
        default=None, description="number of tokens that a model reads at a time"
    )
    stride: Annotated[PositiveInt | None, Flag(default="half the window")] = Field(
        default=None, description="number of tokens scored per window; the rest of the window is context"
    )
    batch_size: Annotated[PositiveInt | None, Flag(default="by memory")] = Field(
        default=None, description="largest number of windows at a time"
    )
    device: DeviceField = Field(default=None, description=DEVICE)
    dtype: DTypeField = Field(default=None, description=DTYPE)
    resamples: Annotated[int, Ge(100)] = Field(default=1000, description="number of resamples of the bootstrap")
    seed: Seed = Field(default=0, description="seed of the bootstrap and of samples in plots")
    top: NonNegativeInt = Field(default=20, description="number of tokens with the largest excess loss to list")
    rows: bool = Field(default=False, description="also measure the embedding rows, for the plots of the page")

    @model_validator(mode="after")
    def _check_stride(self) -> CompareOptions:
        if self.window is not None and self.stride is not None:
            from mergekit_tokenadapt.models.losses import check_stride

            check_stride(self.window, self.stride)
        return self


class DraftOptions(Options):
    """Options of `draft`."""

    prompts: PositiveInt = Field(default=20, description="largest number of prompts")
    prompt_tokens: PositiveInt = Field(
        default=32, description="number of first tokens of a document that are its prompt"
    )
    new_tokens: PositiveInt = Field(default=64, description="number of tokens to generate after each prompt")
    proposed: PositiveInt = Field(default=5, description="number of tokens that the draft proposes in a round")
    temperature: PositiveFloat = Field(default=1.0, description="temperature of the sampled run, for both models")
    device: DeviceField = Field(default=None, description=DEVICE)
    dtype: DTypeField = Field(default=None, description=DTYPE)
    seed: Seed = Field(default=0, description="seed of the sampled run")

    @model_validator(mode="after")
    def _check_round(self) -> DraftOptions:
        if self.new_tokens <= self.proposed:
            raise TokenAdaptError(
                f"{self.new_tokens} new tokens are too few for a round with {self.proposed} proposed tokens: "
                "set --new-tokens higher"
            )
        return self


class HealingOptions(Options):
    """Options of measuring healing: how models are trained for a few steps, and when their loss is measured."""

    train: Literal["rows", "all"] = Field(
        default="rows", description="what to train. rows: input and output rows, body frozen. all: all weights"
    )
    steps: PositiveInt = Field(default=40, description="steps of training")
    every: PositiveInt = Field(default=10, description="steps between two measurements")
    batch_size: PositiveInt = Field(default=4, description="passages in a step")
    passage_bytes: Annotated[int, Ge(16)] = Field(
        default=512, description="largest passage, in bytes; shorter where a model has fewer positions"
    )
    learning_rate: Annotated[Annotated[float, Gt(0)] | None, Flag(default="1e-3 for rows, 1e-4 for all")] = Field(
        default=None, description="learning rate of AdamW, constant, without weight decay"
    )
    held_out_bytes: NonNegativeInt = Field(
        default=4000, description="bytes of the held-out tenth to score, in whole passages; 0 for all"
    )
    device: DeviceField = Field(default=None, description=DEVICE)
    seed: Seed = Field(default=0, description="seed of the order of the passages")

    @property
    def num_looks(self) -> int:
        """Number of measurements of each model: before the first step, after every `every` steps, and after the last
        step.
        """
        return -(-self.steps // self.every) + 1

    @property
    def rate(self) -> float:
        """The given learning rate, or the default for `train`."""
        return self.learning_rate or {"rows": 1e-3, "all": 1e-4}[self.train]


class TaskOptions(Options):
    """Options of `tasks`: those passed on to lm-evaluation-harness, and those of scoring request files."""

    num_fewshot: Annotated[NonNegativeInt | None, Flag(default="as the task says")] = Field(
        default=None, description="number of solved examples in the prompt; only for --tasks"
    )
    limit: Annotated[PositiveInt | None, Flag(default="all")] = Field(
        default=None, description="number of documents of each task: the first for --tasks, a sample for --requests"
    )
    batch_size: Annotated[PositiveInt | None, Flag(default="1 for --tasks, by memory for --requests")] = Field(
        default=None, description="number of requests (--tasks) or largest number of documents (--requests) in a batch"
    )
    device: DeviceField = Field(default=None, description=DEVICE)
    dtype: DTypeField = Field(default=None, description=DTYPE)
    include_path: DirectoryPath | None = Field(
        default=None, description="folder with task definitions of your own; only for --tasks"
    )
    start_token: bool = Field(
        default=False,
        description="put the start token (bos, else eos) before each text, also where the tokenizer puts none there; "
        "only for --requests",
    )
    resamples: Annotated[int, Ge(100)] = Field(
        default=1000, description="number of resamples of the bootstrap; only for --requests"
    )
    seed: Seed = Field(default=0, description="seed of the bootstrap and of the sample; only for --requests")


def _sample(given: str | TextSet) -> TextSet:
    return given if isinstance(given, TextSet) else read_text(given, option="--mixture")


class QualityOptions(Options):
    """Options of `tokenizer`."""

    reference: str = Field(
        default="en", description="language whose number of tokens the others are divided by (parity)"
    )
    words: Annotated[tuple[str, ...], Flag(metavar="LANG")] = Field(
        default=(),
        description="language for the share of tokens that are words (needs wordfreq); by default all languages of the "
        "built-in text that wordfreq knows",
    )
    morphemes: Annotated[Mapping[str, Path], Flag(metavar="LANG=FILE")] = Field(
        default_factory=dict, description="file of words or morphemes of a language, one a line"
    )
    mixture: Annotated[tuple[Annotated[TextSet, BeforeValidator(_sample)], ...], Flag(metavar="[NAME=]PATH")] = Field(
        default=(), description="sample of a category of text; its share in the tokenizer's training text is estimated"
    )
    merges: PositiveInt = Field(default=1000, description="number of merges from which --mixture is estimated")

    @model_validator(mode="after")
    def _check_names(self) -> QualityOptions:
        if self.reference not in LANGUAGES:
            raise TokenAdaptError(f"there is no parallel text in {self.reference!r}; there is {', '.join(LANGUAGES)}")
        for language in sorted({*self.words, *self.morphemes} - set(LANGUAGES)):
            raise TokenAdaptError(f"there is no built-in text in {language!r}; there is {', '.join(LANGUAGES)}")
        if self.morphemes or self.mixture:
            from mergekit_tokenadapt.evaluation.mixture_inference import check_samples
            from mergekit_tokenadapt.evaluation.tokenizer_quality.words import read_units

            for file in self.morphemes.values():
                read_units(file)
            if self.mixture:
                check_samples(self.mixture)
        return self


class CheckOptions(Options):
    """Options of `check`."""

    run: bool = Field(default=True, description="load the model if a check needs its predictions")
