"""A Kafka of several processes on loopback: one controller, three brokers, each of which can be killed and restarted.

The controller is a process of its own, so that two of three brokers can die and their partitions are still judged:
in a quorum of three combined nodes, nobody would be left to say which replicas are in sync.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from gatelog.local import jars, kafka, ports
from gatelog.local.java import find_java
from gatelog.local.lockfile import read_lock
from gatelog.local.model import no_progress
from gatelog.local.process import run_checked
from support.waiting import until

BROKERS = (1, 2, 3)
CONTROLLER = 100
TRANSACTIONS = "__transaction_state"
_TIMEOUT_S = 10.0

_COMMON = {
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",  # how long a killed broker is believed to be alive
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "1",  # so that it is the topics' own minimum that is tried, which gatelog sets
    "transaction.state.log.num.partitions": "1",  # its leader is the coordinator of all transactions
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "message.max.bytes": str(4 * 1024 * 1024),
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}
_JAVA = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


class Cluster:
    """Brokers and their controller below one folder; ``listeners``: more of these, with their ports."""

    def __init__(
        self,
        folder: Path,
        brokers: Collection[int] = BROKERS,
        more: Mapping[str, str] = MappingProxyType({}),
        listeners: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._brokers, self._more, self._listeners = tuple(brokers), more, listeners
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ports: dict[int, int] = {}
        for node in (CONTROLLER, *self._brokers):
            self._ports[node] = ports.choose(None, [*self._ports.values(), *listeners.values()])
        folder.mkdir(parents=True)
        lock, cache = read_lock(), jars.cache_folder()
        classpath = os.pathsep.join(str(path) for path in jars.ensure_jars(lock, cache, no_progress))
        self._env = {**os.environ, "CLASSPATH": classpath, "LC_ALL": "C.UTF-8"}
        self.servers = ",".join(f"{ports.HOST}:{self._ports[node]}" for node in self._brokers)
        self._admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def format(self) -> None:
        """Make the data folders."""
        cluster = kafka.cluster_id()

        def one(node: int) -> None:
            self._write_properties(node)
            tool = [find_java(), *_JAVA, "kafka.tools.StorageTool", "format"]
            run_checked([*tool, "-t", cluster, "-c", f"{node}.properties"], "format", env=self._env, cwd=self._folder)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(one, (CONTROLLER, *self._brokers)))

    def start(self, *nodes: int) -> None:
        """Start those of the nodes that do not run; they may not be ready yet."""
        for node in nodes:
            if node not in self._processes:
                log = f"-Dlog4j2.configurationFile={kafka._LOG4J.as_uri()}"
                command = [find_java(), *_JAVA, log, f"-Dgatelog.log={node}.log", "kafka.Kafka", f"{node}.properties"]
                with (self._folder / f"{node}.output").open("ab") as output:
                    self._processes[node] = subprocess.Popen(
                        command, env=self._env, cwd=self._folder, stdout=output, stderr=output, start_new_session=True
                    )

    def kill(self, *nodes: int) -> None:
        """SIGKILL: partitions are led by a dead broker until the controller gives it up."""
        self._end(nodes, signal.SIGKILL)

    def stop(self, *nodes: int) -> None:
        """SIGTERM: the broker hands over what it leads first."""
        self._end(nodes, signal.SIGTERM)

    def freeze(self, node: int) -> None:
        """SIGSTOP: its connections stay, and nobody answers."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def thaw(self, node: int) -> None:
        """Let a frozen broker go on."""
        self._processes[node].send_signal(signal.SIGCONT)

    def _end(self, nodes: tuple[int, ...], number: signal.Signals) -> None:
        ended = [self._processes.pop(node) for node in nodes if node in self._processes]
        for process in ended:
            process.send_signal(number)
        for process in ended:
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def running(self) -> set[int]:
        """The brokers that run."""
        return {node for node, process in self._processes.items() if process.poll() is None} - {CONTROLLER}

    def leader_of(self, topic: str, partition: int = 0) -> int:
        """The broker that leads a partition, as the cluster says; -1 if there is none."""
        return int(self._admin.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions[partition].leader)

    def in_sync_of(self, topic: str, partition: int = 0) -> set[int]:
        """The brokers that hold all of a partition, as the cluster says."""
        return set(self._admin.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions[partition].isrs)

    def are_whole(self, topics: Collection[str]) -> bool:
        """Whether all brokers are alive, and every partition of ``topics`` has all its replicas in sync."""
        try:
            found = self._admin.list_topics(timeout=_TIMEOUT_S)
        except KafkaException:
            return False
        return found.brokers.keys() == set(BROKERS) and all(
            len(partition.isrs) == len(BROKERS)
            for name in topics
            for partition in found.topics[name].partitions.values()
        )

    def _write_properties(self, node: int) -> None:
        own = f"{ports.HOST}:{self._ports[node]}"
        if node == CONTROLLER:
            role = {"process.roles": "controller", "listeners": f"CONTROLLER://{own}"}
        else:
            others = [f"{name}://{ports.HOST}:{port}" for name, port in self._listeners.items()]
            listener = ",".join([f"PLAINTEXT://{own}", *others])
            role = {"process.roles": "broker", "listeners": listener, "advertised.listeners": listener}
        chosen = {
            "node.id": str(node),
            "controller.quorum.voters": f"{CONTROLLER}@{ports.HOST}:{self._ports[CONTROLLER]}",
            "log.dirs": f"data-{node}",
        }
        lines = [f"{name}={value}\n" for name, value in {**_COMMON, **self._more, **role, **chosen}.items()]
        (self._folder / f"{node}.properties").write_text("".join(lines))


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a cluster that has been started, and does not outlive the block."""
    made = Cluster(folder)
    made.format()
    try:
        made.start(CONTROLLER, *BROKERS)
        yield made
    finally:
        made.kill(CONTROLLER, *BROKERS)


async def whole(brokers: Cluster, *topics: str) -> None:
    """Start what is down, and wait until every replica has caught up."""
    brokers.start(*BROKERS)

    async def is_whole() -> bool:
        return await asyncio.to_thread(brokers.are_whole, topics)

    await until(is_whole, "all brokers are up and in sync")
