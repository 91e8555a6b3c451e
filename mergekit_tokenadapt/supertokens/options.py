"""Options of `supertokens train` and `supertokens extend`: every name, default and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Le, MinLen
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.options import Flag, Options, Seed
from mergekit_tokenadapt.supertokens.chunk_lengths import LONGEST, SHORTEST, ChunkLengths
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.terminal.progress import shows_progress

GB = 2**30
"""Bytes in the GB of options."""


class CorpusOptions(Options):
    """The text to learn from."""

    texts: Annotated[tuple[str, ...], MinLen(1), Flag("text", metavar="[NAME=]PATH")] = Field(
        description="text to learn from: a file, a folder, .jsonl (,field=NAME), .gz of these, or hf:ID (,config= "
        ",split= ,field=). Several texts are read in turns. Or one ray:PATH (parquet or .jsonl), counted on a Ray "
        "cluster"
    )
    max_bytes: Annotated[NonNegativeInt, Flag(default="all")] = Field(
        default=0, description="number of bytes to read; 0 for all"
    )


class Limits(Options):
    """Limits of memory and text for learning."""

    min_frequency: PositiveInt = Field(
        default=2, description="smallest number of occurrences in the text for a new token"
    )
    max_memory: Annotated[PositiveFloat, Flag(metavar="GB")] = Field(
        default=4.0,
        description="memory for the counts of pairs and runs of tokens. If it is not enough, rare ones are not counted",
    )
    words_from: Annotated[NonNegativeFloat, Flag(metavar="GB")] = Field(
        default=1.0,
        description="GB of text from which words or chunks are learned, because their trainer keeps all distinct ones "
        "in memory; 0 for all",
    )
    quiet: bool = Field(default=False, description="show no progress")

    @property
    def memory_bytes(self) -> int:
        """Memory for counts, in bytes."""
        return int(self.max_memory * GB)

    @property
    def words_bytes(self) -> int:
        """Size of the text from which words are learned, in bytes; 0 takes all of it.

        Sources take turns, so the start of the text is a mixture of all of them.
        """
        return int(self.words_from * GB)

    @property
    def shows_progress(self) -> bool:
        """Whether the trainer may draw its progress bars."""
        return shows_progress(quiet=self.quiet)


def _chunk_lengths(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    try:
        return ChunkLengths({int(length): float(probability) for length, probability in given.items()})
    except TokenAdaptError:
        raise
    except (TypeError, ValueError) as error:
        raise TokenAdaptError(f"--chunk-length takes LENGTH=PROBABILITY, two numbers: {error}") from error


class TrainOptions(Options):
    """Options of learning a new vocabulary."""

    vocab_size: PositiveInt = Field(description="number of tokens, including special tokens")
    algorithm: Literal["superwords", "chunks"] = Field(
        default="superwords",
        description="how merges are learned. superwords: inside words, then across words. chunks: inside random chunks",
    )
    rules: Rules = Field(default_factory=Rules)
    limits: Limits = Field(default_factory=Limits)
    special_tokens: Annotated[tuple[str, ...], Flag("special", metavar="TOKEN")] = Field(
        default=(), description="a special token of the new tokenizer"
    )
    digits: Literal["1", "3", "all"] = Field(
        default="3", description="largest number of digits in a token, unless --like gives the pre-tokenization"
    )
    word_share: Annotated[PositiveFloat, Le(1)] = Field(
        default=0.5,
        description="superwords: share of the vocabulary that is learned within words, before tokens across words",
    )
    lengths: Annotated[
        ChunkLengths,
        BeforeValidator(_chunk_lengths),
        Flag(
            "chunk-length",
            metavar="LENGTH=PROBABILITY",
            default=f"bell-shaped, {SHORTEST} to {LONGEST}",
            takes_pairs=True,
        ),
    ] = Field(
        default_factory=ChunkLengths,
        description="chunks: probability of a chunk length in characters; all probabilities add up to 1",
    )
    seed: Seed = Field(default=0, description="chunks: seed of the random chunk lengths")

    @field_validator("special_tokens")
    @classmethod
    def _have_characters(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if "" in tokens:
            raise TokenAdaptError("a special token is empty: it has to have characters")
        return tokens


class ExtendOptions(Options):
    """How tokens are added to a vocabulary."""

    add: NonNegativeInt = Field(description="number of tokens to add")
    drop: bool = Field(
        default=False, description="keep the size: drop as many tokens as are added, those that the text uses least"
    )
    rules: Rules = Field(default_factory=Rules)
    limits: Limits = Field(default_factory=Limits)
