"""kafka.lock and registry.lock: exactly which files make up a local service, with their sizes and hashes."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

LOCK_PATH = Path(__file__).with_name("kafka.lock")
REGISTRY_LOCK_PATH = Path(__file__).with_name("registry.lock")
_VERSIONED_BY = ("kafka-clients", "apicurio-registry-app")


@dataclass(frozen=True)
class Jar:
    """One file of a Maven repository."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int
    suffix: str = ".jar"  # classifier and type

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}{self.suffix}"

    @property
    def path(self) -> str:
        """Where it lies in a repository, relative to the repository's root."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.name}"


@dataclass(frozen=True)
class Lock:
    """The whole list, and a hash of it that names what was verified."""

    jars: tuple[Jar, ...]
    digest: str
    file: str

    @property
    def title(self) -> str:
        """Name and version of what the files make up."""
        return f"{self.file.removesuffix('.lock').title()} {self.version}"

    @property
    def version(self) -> str:
        return next((jar.version for jar in self.jars if jar.artifact in _VERSIONED_BY), "")

    @property
    def size(self) -> int:
        return sum(jar.size for jar in self.jars)


def read_lock(path: Path = LOCK_PATH) -> Lock:
    """Read the list that ships with this package."""
    text = path.read_bytes()
    return Lock(tuple(Jar(**jar) for jar in json.loads(text)["jars"]), sha256(text).hexdigest(), path.name)


def file_sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
