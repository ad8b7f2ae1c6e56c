"""The versions that a new schema is compared with: from a git ref and its history, or from a registry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatelog.core.errors import SchemaError
from gatelog.schemas.checking import Version, is_transitive
from gatelog.schemas.definitions import same
from gatelog.schemas.git import Repository
from gatelog.schemas.located import Located
from gatelog.schemas.registry import AvroSchema, Compatibility, Registry
from gatelog.schemas.sources import Sources


@dataclass(slots=True)
class Earlier:
    """Versions of each subject, oldest first; what is defined no more; and commits that could not be read."""

    where: str
    versions: dict[str, list[Version]] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def add(self, label: str, definitions: Mapping[str, AvroSchema]) -> None:
        """Add the definitions of one commit; what did not change is no version of its own."""
        for subject, definition in definitions.items():
            known = self.versions.setdefault(subject, [])
            if known and same(known[-1].definition, definition):
                known.pop()
            known.append(Version(label, definition))


def earlier_in_git(
    folder: Path, ref: str, sources: Sources, current: Mapping[str, AvroSchema], levels: Mapping[str, Compatibility]
) -> Earlier:
    """Return the subjects as they were at a ref, and for TRANSITIVE levels in all commits before it.

    Raises:
        SchemaError: there is no such ref, or its schemas cannot be read.
    """
    repository = Repository(folder)
    commit = repository.commit(ref)
    found = Earlier(ref)
    if any(is_transitive(levels[subject]) for subject in current):
        _add_history(found, repository, commit, sources, current)
    at_ref = repository.definitions(commit, sources)
    found.add(ref, at_ref)
    if not at_ref:  # or a renamed folder would pass for new
        found.unread.append(f"{ref} has no schemas in these files and modules. If they were moved, ask the registry.")
    found.removed = {subject: ref for subject in at_ref if subject not in current}
    return found


def _add_history(
    found: Earlier, repository: Repository, commit: str, sources: Sources, current: Mapping[str, AvroSchema]
) -> None:
    files = {*sources.paths, *(file for definition in current.values() for file in _files_of(definition))}
    for each in repository.history(commit, files)[:-1]:
        try:
            found.add(each[:10], repository.definitions(each, sources))
        except SchemaError as error:  # nobody can repair a commit of the past
            found.unread.append(f"commit {each[:10]}: {error}")


def _files_of(schema: object) -> Iterable[Path]:
    if isinstance(schema, Located) and schema.place:
        yield Path(schema.place.file)
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _files_of(each)


async def earlier_in_registry(registry: Registry, where: str, subjects: Iterable[str]) -> Earlier:
    """Return all registered versions of some subjects."""
    found = Earlier(where)
    for subject in subjects:
        versions = await registry.versions(subject)
        found.versions[subject] = [
            Version(f"version {each.version}", each.definition, each.version) for each in versions
        ]
    return found
