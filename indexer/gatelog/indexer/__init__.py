"""Kafka → Postgres index."""

from gatelog.indexer.indexer import Indexer

__all__ = ["Indexer"]
