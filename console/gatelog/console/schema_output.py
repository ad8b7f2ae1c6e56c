"""How findings and changes are shown: to people, to programs, and as annotations of a pull request on GitHub."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import typer

from gatelog.console.output import print_json
from gatelog.schemas.difference import Change
from gatelog.schemas.findings import Breaks, Finding, Severity

_WHO: Final = {
    Breaks.NEW_READERS: "new readers: this version cannot read what was written with {against}",
    Breaks.OLD_READERS: "old readers: programs that have {against} cannot read what this version writes",
}
_COLOURS: Final = {Severity.ERROR: typer.colors.RED, Severity.WARNING: typer.colors.YELLOW}
_SIGNS: Final = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}


class Format(StrEnum):
    """How findings are shown."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def print_findings(found: Sequence[Finding], output: Format, summary: str, unread: Sequence[str] = ()) -> None:
    """Print all findings, and what they are out of; ``unread``: what could not be compared, one reason each."""
    errors = sum(each.severity is Severity.ERROR for each in found)
    warnings = len(found) - errors
    if output is Format.JSON:
        documents = [each.document() for each in found]
        print_json({"errors": errors, "warnings": warnings, "findings": documents, "not_compared": unread})
        return
    for each in found:
        typer.echo(annotation_of(each)) if output is Format.GITHUB else _print(each)
    for reason in unread:
        typer.secho(f"not compared: {reason}", fg=typer.colors.YELLOW, err=True)
    counts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    typer.echo(f"{', '.join(counts) or 'nothing found'}: {summary}")


def annotation_of(finding: Finding) -> str:
    """Return a workflow command that GitHub shows at the line of the change."""
    properties = {"title": f"{finding.rule} {finding.path}"}
    if finding.place:
        properties = {"file": finding.place.file, "line": str(finding.place.line), **properties}
    named = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    text = "\n".join(part for part in (f"{finding.path}: {finding.message}", _who(finding), finding.advice) if part)
    return f"::{finding.severity} {named}::{_escaped(text)}"


def print_changes(changed: Mapping[str, Sequence[Change]], *, json: bool) -> None:
    """Print what differs, subject by subject."""
    for subject, found in changed.items():
        if json:
            print_json({"subject": subject, "changes": [each.document() for each in found]})
        elif found:
            typer.secho(subject, bold=True)
            for each in found:
                typer.secho(f"  {each}", fg=_SIGNS[each.sign])
    if not json and not any(changed.values()):
        typer.echo("no changes")


def _print(finding: Finding) -> None:
    place = f"{finding.place}: " if finding.place else ""
    typer.secho(f"{place}{finding.severity}: ", fg=_COLOURS[finding.severity], nl=False)
    typer.secho(finding.path, bold=True, nl=False)
    typer.echo(f"  {finding.message}  [{finding.rule}]")
    if who := _who(finding):
        typer.echo(f"    breaks   {who}")
    typer.echo(f"    instead  {finding.advice}")


def _who(finding: Finding) -> str:
    return _WHO[finding.breaks].format(against=finding.against) if finding.breaks else ""


def _escaped(text: str, more: str = "") -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for character in more:
        escaped = escaped.replace(character, f"%{ord(character):02X}")
    return escaped
