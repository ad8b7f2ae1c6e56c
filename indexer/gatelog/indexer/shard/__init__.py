"""What a database of the index has besides the index, when the gate is elsewhere."""

from typing import Final

PACKAGE: Final = "gatelog.indexer.shard"
