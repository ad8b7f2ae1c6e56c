"""Java's Avro as the outside judge: one JVM, asked over its standard input.

``tests/java/avro.lock`` is written anew, for a new Avro, as ``gatelog.local.lock`` says, with ``--output``.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatelog.local import jars
from gatelog.local.java import find_java
from gatelog.local.lockfile import read_lock
from gatelog.local.model import no_progress

SOURCE = Path(__file__).parent.parent / "java" / "AvroJudge.java"
COMPILE_TIMEOUT_S = 120
_OPTIONS = ["-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


class JudgeError(Exception):
    """Java refused the request; the message is its exception."""


class AvroJudge:
    """Asks Java."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, what: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        """Return the answer to one request.

        Raises:
            JudgeError: Java threw an exception.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **request}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise JudgeError(answer["error"])
        return answer


@contextmanager
def avro_judge(folder: Path) -> Iterator[AvroJudge]:
    """Yield a judge; what it was compiled to goes into ``folder``."""
    lock = read_lock(SOURCE.with_name("avro.lock"))
    class_path = os.pathsep.join(map(str, [*jars.ensure_jars(lock, jars.cache_folder(), no_progress), folder]))
    compiler = ["org.eclipse.jdt.internal.compiler.batch.Main", "-source", "17", "-target", "17", "-proc:none"]
    java = [find_java(), *_OPTIONS, "-cp", class_path]
    compiled = subprocess.run(
        [*java, *compiler, "-d", str(folder), "-cp", class_path, str(SOURCE)],
        capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    process = subprocess.Popen([*java, "AvroJudge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield AvroJudge(process)
    finally:
        process.communicate(timeout=30)  # end of its input: it ends
