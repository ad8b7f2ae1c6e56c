"""gatelog as its users run it: in processes of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from gatelog.core.settings import Settings


@contextmanager
def gatelog(
    settings: Settings, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run ``gatelog …`` as users do, in a process of its own, with more in its environment."""
    whole = {
        **os.environ,
        **(environment or {}),
        "GATELOG_STORE": settings.store,
        "GATELOG_POSTGRES_DSN": settings.dsn,
        "GATELOG_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_properties["bootstrap.servers"],
    }
    command = [sys.executable, "-m", "gatelog.console", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=whole, stdout=log, stderr=log)
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()
