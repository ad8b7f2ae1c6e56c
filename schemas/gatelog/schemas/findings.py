"""What a check or lint has to say: one finding is a place, a rule, who would break, and what to do instead."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gatelog.schemas.located import Place


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Breaks(StrEnum):
    """Who cannot go on."""

    NEW_READERS = "new readers"  # this version of the program, with events that are stored already
    OLD_READERS = "old readers"  # programs that have the earlier version, with events that this one writes


@dataclass(frozen=True, slots=True)
class Finding:
    """``path`` is the field (``Order.lines[].sku``), ``against`` what the new schema was compared with."""

    subject: str
    severity: Severity
    rule: str
    path: str
    message: str
    advice: str
    place: Place | None = None
    breaks: Breaks | None = None
    against: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "subject": self.subject,
            "severity": self.severity,
            "rule": self.rule,
            "path": self.path,
            "message": self.message,
            "advice": self.advice,
            "file": self.place.file if self.place else None,
            "line": self.place.line if self.place else None,
            "breaks": self.breaks,
            "against": self.against,
        }
