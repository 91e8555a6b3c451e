"""The keys of the recipe block ``tokenizer.adapt``: the one place that knows their names, defaults and meaning.

The command line's flags are made from them. For a quick `--help` this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.options import Flag
from mergekit_tokenadapt.terminal.plain_words import describe_errors
from mergekit_tokenadapt.transfer.extend_options import ExtendOptions

if TYPE_CHECKING:
    from mergekit_tokenadapt.auxiliary import AuxiliarySpace
    from mergekit_tokenadapt.transfer.method import Method


class AdaptConfig(BaseModel):
    """Options that every method has. Any other key is an option of the method, which checks it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = Field(default="calibrated", description="method that computes the rows of new tokens")
    auxiliary: str = Field(
        default="ngram",
        description="embedding space in which token texts are compared: ngram, a file of word vectors, a folder, a hub "
        "id such as sentence-transformers/all-MiniLM-L6-v2, or NAME:ARGUMENT (the command methods lists the names)",
    )
    rows: Annotated[
        Literal["exact", "donor"] | PositiveInt | None,
        Flag(metavar="exact|donor|N", default="exact; BASE's number if it has TARGET's tokenizer already"),
    ] = Field(
        default=None,
        description="number of rows of the vocabulary matrices: highest id + 1 (exact), as many as the target's model "
        "has (donor), or a number",
    )
    extend: Annotated[ExtendOptions | None, Flag(metavar="KEY=VALUE", takes_pairs=True)] = Field(
        default=None,
        description="keep BASE's tokenizer, and append the tokens of TARGET that it lacks: tokens=N for at most N new "
        "rows (tokens=all for all), text=PATH for those that this text uses most",
    )
    token_map: Annotated[Mapping[str, str], Flag(metavar="OLD=NEW")] = Field(
        default_factory=dict,
        description="for special tokens: the target's token NEW gets the row of the old token OLD, or a row composed "
        "from a text (NEW=TEXT)",
    )
    glossary: Annotated[str | None, Flag(metavar="FILE")] = Field(
        default=None,
        description="file that says in words what new tokens mean, with a token, a tab and a text on each line; their "
        "rows are made of the texts, and the method makes the others",
    )
    chat_template: Annotated[str, Flag(metavar="target|base|FILE")] = Field(
        default="target", description="source of the chat template: target, base, or a file with Jinja source"
    )
    start_token: Annotated[Literal["target", "base"], Flag(metavar="target|base")] = Field(
        default="target",
        description="what the output's tokenizer puts before each text, such as Gemma's <bos>: the same as TARGET's "
        "(target), or the tokens of TARGET that have the rows of BASE's start tokens (base)",
    )
    calibration_text: Annotated[str | None, Flag(metavar="default|[NAME=]PATH")] = Field(
        default=None,
        description="text that corrects the output rows: a file, a folder, jsonl, or 'default' for the "
        "source of Python's own library",
    )
    calibration_bytes: Annotated[NonNegativeInt, Flag(metavar="N")] = Field(
        default=1_000_000, description="bytes of that text to use, in evenly spaced passages; 0 means all"
    )
    untie: Annotated[bool, Flag(has_opposite=True, default="no-untie")] = Field(
        default=False,
        description="give a model with tied matrices a separate output matrix, as large as its input matrix",
    )
    missing_rows: Annotated[Literal["composed", "base_model"], Flag(metavar="composed|base_model")] = Field(
        default="composed",
        description="rows of tokens that an input model does not have: made by the method (composed), or copied "
        "from the recipe's base_model, so that the task vector is zero there. Without a base_model (the "
        "command transplant makes such a recipe), only composed is possible",
    )
    save_plan: bool = Field(
        default=True, description="write tokenadapt.plan, which says how every row was made, into the output folder"
    )

    @model_validator(mode="after")
    def _check_names(self) -> AdaptConfig:
        from mergekit_tokenadapt.auxiliary import check_auxiliary_name

        self.make_method()
        check_auxiliary_name(self.auxiliary)
        return self

    @classmethod
    def read(cls, block: Mapping[str, Any]) -> AdaptConfig:
        """Return the options of a recipe's block, or of flags that were collected into one.

        Raises:
            TokenAdaptError: a key or a value is wrong. The message is one line in plain words.
        """
        try:
            return cls.model_validate(block)
        except pydantic.ValidationError as error:
            raise TokenAdaptError(describe_errors(error)) from error

    def make_method(self) -> Method:
        """Return the method with its options.

        Raises:
            TokenAdaptError: there is no such method, or an option of it is wrong.
        """
        from mergekit_tokenadapt.transfer.method import find_method

        return find_method(self.method, self.model_extra or {}, beside=list(type(self).model_fields))

    def make_auxiliary(self) -> AuxiliarySpace | None:
        """Return the embedding space; None where the method needs none.

        Raises:
            TokenAdaptError: there is no such space, or its model cannot be loaded.
        """
        from mergekit_tokenadapt.auxiliary import find_auxiliary

        return find_auxiliary(self.auxiliary) if self.make_method().needs_auxiliary else None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
