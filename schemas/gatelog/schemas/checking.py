"""A subject's new schema against its earlier versions, under a compatibility level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gatelog.schemas.advice import REMOVED, UPCAST, advice_for
from gatelog.schemas.compatibility import Mismatch, Rule, mismatches
from gatelog.schemas.definitions import same
from gatelog.schemas.event import pinned_version
from gatelog.schemas.findings import Breaks, Finding, Severity
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema, Compatibility, RegisteredSchema
from gatelog.schemas.upcasting import steps_of

_BACKWARD: Final = {
    Compatibility.BACKWARD,
    Compatibility.BACKWARD_TRANSITIVE,
    Compatibility.FULL,
    Compatibility.FULL_TRANSITIVE,
}
_FORWARD: Final = {
    Compatibility.FORWARD,
    Compatibility.FORWARD_TRANSITIVE,
    Compatibility.FULL,
    Compatibility.FULL_TRANSITIVE,
}


@dataclass(frozen=True, slots=True)
class Version:
    """An earlier definition, what people call it (``main``, ``version 3``), and its number, where it is known."""

    label: str
    definition: AvroSchema
    number: int | None = None


def is_transitive(level: Compatibility) -> bool:
    """Say whether all versions count, not the last one only."""
    return level.value.endswith("_TRANSITIVE")


def check_subject(
    subject: str, definition: AvroSchema, versions: Sequence[Version], level: Compatibility
) -> list[Finding]:
    """Return what is wrong with a new definition; ``versions`` are oldest first.

    A mismatch with several versions is told once, for the newest of them. What new readers cannot resolve is a
    warning where this program has an upcaster for it.

    Raises:
        SchemaError: a definition is not legal Avro.
    """
    new = parse(definition, subject)
    found: dict[tuple[Any, ...], Finding] = {}
    for version in reversed(versions if is_transitive(level) else versions[-1:]):
        if level is Compatibility.NONE or same(version.definition, definition):
            continue
        old = parse(version.definition, f"{subject}, {version.label}")
        if level in _BACKWARD:
            for each in mismatches(new, old):
                _add(found, _finding(subject, each, Breaks.NEW_READERS, version))
        if level in _FORWARD:
            for each in mismatches(old, new):
                _add(found, _finding(subject, each, Breaks.OLD_READERS, version))
    return list(found.values())


def check_all(
    definitions: Mapping[str, AvroSchema],
    versions: Mapping[str, Sequence[Version]],
    levels: Mapping[str, Compatibility],
    *,
    removed: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Return what is wrong with all subjects; ``removed`` are those that had a definition, and where they had it.

    Raises:
        SchemaError: a definition is not legal Avro.
    """
    found = [
        finding
        for subject, definition in definitions.items()
        for finding in check_subject(subject, definition, versions.get(subject, ()), levels[subject])
    ]
    for subject, against in (removed or {}).items():
        if levels[subject] is not Compatibility.NONE:
            message = f"the event type is not defined any more (in {against} it is)"
            found.append(
                Finding(
                    subject, Severity.ERROR, Rule.SUBJECT_REMOVED, subject, message, REMOVED,
                    breaks=Breaks.NEW_READERS, against=against,
                )
            )  # fmt: skip
    return found


def problems(level: Compatibility, definition: AvroSchema, versions: Sequence[RegisteredSchema]) -> list[str]:
    """Judge a registration: a ``Check`` for ``Registry.register``."""
    subject = versions[-1].subject if versions else ""
    known = [Version(f"version {each.version}", each.definition, each.version) for each in versions]
    return [
        f"{each.path}: {each.message} ({each.rule}, breaks {each.breaks}, against {each.against}). {each.advice}"
        for each in check_subject(subject, definition, known, level)
        if each.severity is Severity.ERROR
    ]


def _add(found: dict[tuple[Any, ...], Finding], finding: Finding) -> None:
    found.setdefault((finding.rule, finding.path, finding.breaks), finding)


def _finding(subject: str, mismatch: Mismatch, breaks: Breaks, against: Version) -> Finding:
    is_new_reading = breaks is Breaks.NEW_READERS
    upcast = is_new_reading and _is_upcast(subject, against)
    return Finding(
        subject=subject,
        severity=Severity.WARNING if upcast else Severity.ERROR,
        rule=mismatch.rule,
        path=mismatch.path,
        message=mismatch.detail,
        advice=UPCAST if upcast else advice_for(mismatch, breaks),
        place=mismatch.reader_place if is_new_reading else mismatch.writer_place,
        breaks=breaks,
        against=against.label,
    )


def _is_upcast(subject: str, version: Version) -> bool:
    """An upcaster takes the version that it names, and those before it, which are first read as that one."""
    number = pinned_version(version.definition) or version.number
    steps = steps_of(subject)
    return any(step >= number for step in steps) if number else bool(steps)
