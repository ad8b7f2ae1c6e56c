"""Codecs over a registry in memory."""

from gatelog.schemas import Event
from gatelog.schemas.codec import Codec
from gatelog.testing.registry import MemoryRegistry


async def codec_for(*models: type[Event]) -> Codec:
    """Return a codec that knows the models, and can read what it wrote."""
    codec = Codec(MemoryRegistry(), register=True)
    for model in models:
        await codec.learn(model)
    return codec
