"""The result of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    """The model is not sound. The command's exit code is 1."""
    NOTED = "noted"
    """Useful to know. Sound models may have it, too."""
    SKIPPED = "skipped"
    """The check could not run. The message says what it needs."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    """Name of the check."""
    status: Status
    message: str
    """One line: what was found and, after a failure, where."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Figures behind the message, for JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "status": self.status.value}


def passed_unless(problems: list[str], check: str, good: str, **details: Any) -> Finding:
    """Return FAILED with the first three problems if there are any, or else PASSED with the message `good`."""
    if not problems:
        return Finding(check, Status.PASSED, good, details)
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return Finding(check, Status.FAILED, shown, {**details, "problems": problems})
