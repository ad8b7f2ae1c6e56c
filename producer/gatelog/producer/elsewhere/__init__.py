"""What the gate's database keeps when the index is in others: the ids of all events, and how far the index is."""

from typing import Final

PACKAGE: Final = "gatelog.producer.elsewhere"  # its migrations take the place of the indexer's
