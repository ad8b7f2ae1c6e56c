"""Kafka as a local service: one KRaft process that is broker and controller."""

import os
from base64 import urlsafe_b64encode
from pathlib import Path
from signal import SIGTERM
from uuid import uuid4

from gatelog.local import jars, ports
from gatelog.local.files import unfinished, write_atomic
from gatelog.local.java import find_java
from gatelog.local.kafka_ready import answers, is_ready
from gatelog.local.lockfile import Lock, read_lock
from gatelog.local.model import Progress
from gatelog.local.process import run_checked
from gatelog.local.service import Program, Service
from gatelog.local.state import State, StateFile

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # One partition each: the coordinator that was asked whether it is ready is the only one.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A silent member of a group may be given up as soon as gatelog asks for (subscription_session_timeout_s).
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    # A killed broker's successor waits until the controller gives the dead one up: 9 s by default.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "message.max.bytes": str(4 * 1024 * 1024),  # a payload is at most 1 MiB: headroom for headers and batches
    "log.retention.ms": "-1",  # an event log; a topic that wants less says so itself
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # the default is a quarter of this heap
}
_HEAP = ("-Xms256m", "-Xmx512m")
# G1, Java's default: starts as fast as the serial collector (measured: 2.6 s both on 2 cores) for 50 MB more
# memory, and does most of its work beside the broker's threads instead of stopping them.
_FLAGS = ("-XX:+UseG1GC", "-Djava.awt.headless=true")
# Formatting is over before compiling any of it well would pay.
_TOOL_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")
_LOG4J = Path(__file__).with_name("log4j2.properties")


class Kafka(Service):
    """The Kafka of one state folder."""

    name = "kafka"
    port_names = ("kafka", "kafka-controller")
    stop_signal = SIGTERM

    def __init__(self, home: Path, states: StateFile) -> None:
        super().__init__(home, states)
        self.output = self.folder / "output.log"
        self._lock: Lock = read_lock()
        self._properties = self.folder / "server.properties"

    def version(self) -> str:
        return self._lock.version

    def bootstrap_servers(self, state: State) -> str:
        return f"{ports.HOST}:{self.port(state)}"

    def matches(self, state: State, words: list[str]) -> bool:
        return set(self._marks(state)) <= set(words)

    def prepare(self, progress: Progress) -> None:
        jars.ensure_jars(self._lock, jars.cache_folder(), progress)
        if not self.data.exists():
            progress("format kafka", 0, 1)
            self._format()
            progress("format kafka", 1, 1)

    def program(self, state: State) -> Program:
        client, controller = (state.ports[name] for name in self.port_names)
        self._write_properties(self._properties, "data", client, controller)
        # Relative to its working folder, so that Java never has to spell a path in a strange encoding.
        logging = (f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}", f"-Dgatelog.log={self.log.name}")
        command = [find_java(), *_HEAP, *_FLAGS, *logging, *self._marks(state), "kafka.Kafka", self._properties.name]
        return Program(command, self._env())

    def is_ready(self, state: State) -> bool:
        return self.answers(state) and is_ready(self.bootstrap_servers(state))

    def answers(self, state: State) -> bool:
        # librdkafka would only find a closed port by waiting and trying again.
        return ports.is_open(self.port(state) or 0) and answers(self.bootstrap_servers(state))

    def _format(self) -> None:
        """Format beside, then rename: a data folder with the right name is always a whole one."""
        new = unfinished(self.data)
        properties = new.with_name(f"{new.name}.properties")  # not shared with a killed attempt's program either
        self._write_properties(properties, new.name, 1, 2)
        tool = [find_java(), *_TOOL_FLAGS, "kafka.tools.StorageTool", "format"]
        format_ = [*tool, "-t", cluster_id(), "-c", properties.name]
        run_checked(format_, "Formatting Kafka's data folder", env=self._env(), cwd=self.folder)
        properties.unlink()
        new.rename(self.data)

    def _write_properties(self, path: Path, data: str, client: int, controller: int) -> None:
        """Anew at each start: the ports may be others, and a static quorum of one follows them."""
        chosen = {
            "log.dirs": data,
            "listeners": f"PLAINTEXT://{ports.HOST}:{client},CONTROLLER://{ports.HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{client}",
            "controller.quorum.voters": f"1@{ports.HOST}:{controller}",
        }
        lines = [f"{name}={value}\n" for name, value in {**_PROPERTIES, **chosen}.items()]
        write_atomic(path, "".join(lines))

    def _marks(self, state: State) -> tuple[str, str]:
        """What stands on the command line for us to recognise; Java reads neither."""
        return (f"-Dgatelog.token={state.token}", f"-Dgatelog.folder={self.folder}")

    def _env(self) -> dict[str, str]:
        folder = jars.cache_folder()
        classpath = os.pathsep.join(str(folder / jar.name) for jar in self._lock.jars)
        return {**os.environ, "CLASSPATH": classpath, "LC_ALL": "C.UTF-8"}


def cluster_id() -> str:
    """A random id as Kafka writes it; one that starts with a dash would look like an option."""
    while (text := urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
