"""The base of the option classes.

An option class states each option of a command once: its name, type, range, default and meaning. The flags of the
command line are made from these classes (`cli.generated_options`), and the functions for Python take the same names.
For a quick ``--help`` this module and those with option classes import nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from annotated_types import Ge, Le

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.terminal.plain_words import describe_errors

Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""A seed that numpy, torch, scikit-learn and transformers' Trainer all take."""


class Options(pydantic.BaseModel):
    """Checked, frozen options, each a field with a default and a description.

    Raises:
        TokenAdaptError: a name is unknown, or a value has another type or is out of range. The message is one line.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except pydantic.ValidationError as error:
            raise TokenAdaptError(describe_errors(error, list(type(self).model_fields))) from error


@dataclass(frozen=True)
class Flag:
    """What the command line shows of a field where that does not follow from its name, type and default.

    It stands in the field's type: ``Annotated[int, Flag("new-tokens")]``.
    """

    name: str | None = None
    """The flag's name, without dashes; None: the field's name, with ``-`` for ``_``."""
    metavar: str | None = None
    """What the help shows in place of a value."""
    default: str | None = None
    """What the help says of a default that is None or made by a function."""
    takes_pairs: bool = False
    """Whether the flag is repeated with ``KEY=VALUE``. Fields that are mappings always do."""
    has_opposite: bool = False
    """Whether there is a flag ``--no-...``, too. Fields that are true by default always have one."""
