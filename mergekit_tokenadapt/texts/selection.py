"""Read the texts that the options of an evaluation command name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt

from mergekit_tokenadapt.options import Flag, Options
from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.texts.sources import parse_text, read_text
from mergekit_tokenadapt.texts.text_set import TextSet, check_names


class TextOptions(Options):
    """The texts that a command reads. Subclasses have other defaults."""

    unnamed: ClassVar[Sequence[str]] = tuple(BUILTIN)
    """Names of the built-in texts that are read where the user names no text."""

    texts: Annotated[tuple[str, ...], Flag("text", metavar="[NAME=]PATH")] = Field(
        default=(),
        description="a file, a folder, .jsonl (,field=NAME), or hf:ID (,config= ,split= ,field=)",
    )
    builtin: Annotated[tuple[str, ...], Flag(metavar="NAME")] = Field(
        default=(), description="a built-in text: en, code, ..."
    )
    max_bytes: NonNegativeInt = Field(default=0, description="bytes of each text, in whole documents; 0 for all")

    def read(self) -> list[TextSet]:
        """Read the texts, the built-in ones first.

        Raises:
            TokenAdaptError: a text cannot be read, or two have one name.
        """
        names = self.builtin or (() if self.texts else tuple(self.unnamed))
        places = [parse_text(argument) for argument in self.texts]
        check_names([*names, *(place.name for place in places)])
        for place in places:  # all places are checked before the first text is read, because reading may take long
            place.check("--text")
        sets = [builtin_text(name) for name in names] + [read_text(argument) for argument in self.texts]
        return [text.limited(self.max_bytes) for text in sets]


class ComparedTexts(TextOptions):
    """The texts that `compare` scores."""

    max_bytes: NonNegativeInt = Field(default=2000, description="bytes of each text, in whole documents; 0 for all")


class ProseAndCode(TextOptions):
    """Texts for commands that generate or train: English prose and code where the user names none."""

    unnamed: ClassVar[Sequence[str]] = ("prose", "code")
