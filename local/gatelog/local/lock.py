"""Write kafka.lock anew, for a new Kafka: ``python -m gatelog.local.lock JARS``.

JARS is a folder in repository layout that Maven fills from the pom.xml beside this file:

    mvn -B -f local/gatelog/local/pom.xml dependency:copy-dependencies \\
        -DincludeScope=runtime -Dmdep.useRepositoryLayout=true -DoutputDirectory=JARS
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gatelog.local.files import write_atomic
from gatelog.local.lockfile import LOCK_PATH, Jar, file_sha256


def describe(root: Path, path: Path) -> Jar:
    """One line of the lock file, from where the jar lies and what it holds."""
    *group, artifact, version, _ = path.relative_to(root).parts
    jar = Jar(".".join(group), artifact, version, file_sha256(path), path.stat().st_size)
    if jar.name != path.name:
        raise SystemExit(f"{path} is not where a Maven repository would have {jar.name}")
    return jar


def write_lock(root: Path, lock: Path) -> int:
    """Write the list of all jars below ``root``; how many there are."""
    jars = [asdict(describe(root, path)) for path in sorted(root.rglob("*.jar"))]
    write_atomic(lock, json.dumps({"jars": jars}, indent=1) + "\n")
    return len(jars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jars", type=Path, help="a folder of jars in repository layout")
    parser.add_argument("--output", type=Path, default=LOCK_PATH)
    arguments = parser.parse_args()
    if not write_lock(arguments.jars, arguments.output):
        raise SystemExit(f"No jars below {arguments.jars}")


if __name__ == "__main__":
    main()
