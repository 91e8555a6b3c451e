"""What a check says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    """The model is not sound; the exit code is 1."""
    NOTED = "noted"
    """Worth knowing, and found in sound models too."""
    SKIPPED = "skipped"
    """Could not be asked; the message says what it would need."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    message: str
    """One line: what was seen, and where it is wrong."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Numbers behind the message, for JSON."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "status": self.status.value}


def passed_unless(problems: list[str], check: str, good: str, **details: Any) -> Finding:
    """FAILED with the problems (the first few in words) where there are any, else PASSED with `good`."""
    if not problems:
        return Finding(check, Status.PASSED, good, details)
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return Finding(check, Status.FAILED, shown, {**details, "problems": problems})
