"""A Kafka of one broker that controls access: administrators come by one listener, users by another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not all in its __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from gatelog.core import kafka
from gatelog.local import ports
from support.cluster import CONTROLLER, Cluster

USER, PASSWORD = "relay", "secret"
_JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class GuardedKafka:
    """What its administrator may do, and the properties of users."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        self.admin_properties = {"bootstrap.servers": cluster.servers}
        self.user_properties = {
            "bootstrap.servers": f"{ports.HOST}:{port}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        }

    def allow(self, kind: ResourceType, prefix: str, *operations: AclOperation) -> None:
        """Let the user do that with what begins so."""
        admin = kafka.admin(self.admin_properties)
        pattern = ResourcePatternType.PREFIXED if kind is not ResourceType.BROKER else ResourcePatternType.LITERAL
        bindings = [
            AclBinding(kind, prefix, pattern, f"User:{USER}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for future in admin.create_acls(bindings).values():
            future.result(timeout=30)

    def withdraw(self, kind: ResourceType, prefix: str, operation: AclOperation) -> None:
        """Take it back."""
        admin = kafka.admin(self.admin_properties)
        which = AclBindingFilter(
            kind, prefix, ResourcePatternType.ANY, f"User:{USER}", "*", operation, AclPermissionType.ANY
        )
        for future in admin.delete_acls([which]).values():
            assert future.result(timeout=30), "there was nothing to withdraw"


@contextmanager
def guarded_kafka(folder: Path) -> Iterator[GuardedKafka]:
    """Yield one that has been started, and does not outlive the block."""
    port = ports.choose(None, [])
    more = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,USERS:SASL_PLAINTEXT",
        "listener.name.users.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.users.plain.sasl.jaas.config": f'{_JAAS} user_{USER}="{PASSWORD}";',
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
    }
    made = Cluster(folder, brokers=(1,), more=more, listeners={"USERS": port})
    made.format()
    try:
        made.start(CONTROLLER, 1)
        yield GuardedKafka(made, port)
    finally:
        made.kill(CONTROLLER, 1)
