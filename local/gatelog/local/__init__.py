"""Real Postgres and Kafka on this machine, without Docker."""

from gatelog.local.model import Endpoints, Progress, ServiceName, ServiceStatus
from gatelog.local.services import LocalServices

__all__ = ["Endpoints", "LocalServices", "Progress", "ServiceName", "ServiceStatus"]
