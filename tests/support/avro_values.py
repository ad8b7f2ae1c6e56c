"""Random values of Avro schemas, as fastavro returns them."""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from gatelog.schemas.tree import Array, Enum, Fixed, Map, Primitive, Record, Type, Union

TEXTS = ("", "x", "Ünï", "a longer one, with more words", "line\nbreak")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def value_for(node: Type, chance: random.Random, depth: int = 0) -> Any:  # noqa: ANN401 - one case a type
    """Return one value; recursive types end after a few levels."""
    match node:
        case Union():
            ends = [branch for branch in node.branches if not isinstance(branch, Record)]
            return value_for(chance.choice(ends if ends and depth > 4 else node.branches), chance, depth)
        case Record():
            return {field.name: value_for(field.type, chance, depth + 1) for field in node.fields}
        case Array():
            return [value_for(node.items, chance, depth + 1) for _ in range(chance.randint(0, 0 if depth > 4 else 2))]
        case Map():
            keys = chance.sample(TEXTS, 0 if depth > 4 else chance.randint(0, 2))
            return {key: value_for(node.values, chance, depth + 1) for key in keys}
        case Enum():
            return chance.choice(node.symbols)
        case Fixed():
            return _fixed(node, chance)
        case Primitive():
            return _logical(node, chance) if node.logical else _primitive(node, chance)


def _fixed(node: Fixed, chance: random.Random) -> Any:  # noqa: ANN401 - any value
    if node.logical and node.logical.name == "decimal":
        return _decimal(node.logical.precision, node.logical.scale, chance)
    return chance.randbytes(node.size)


def _decimal(precision: int, scale: int, chance: random.Random) -> Decimal:
    return Decimal(chance.randint(-(10**precision) + 1, 10**precision - 1)).scaleb(-scale)


def _primitive(node: Primitive, chance: random.Random) -> Any:  # noqa: ANN401 - any value
    makers: dict[str, Callable[[], Any]] = {
        "null": lambda: None,
        "boolean": lambda: chance.random() < 0.5,
        "int": lambda: chance.randint(-(2**31), 2**31 - 1),
        "long": lambda: chance.randint(-(2**63), 2**63 - 1),
        "float": lambda: chance.choice([0.0, -1.5, 2.0**-20, 3.25e10, float("inf")]),
        "double": lambda: chance.choice([0.1, 1e300, -0.0, chance.random()]),
        "bytes": lambda: chance.randbytes(chance.randint(0, 5)),
        "string": lambda: chance.choice(TEXTS),
    }
    return makers[node.kind]()


def _logical(node: Primitive, chance: random.Random) -> Any:  # noqa: ANN401 - any value
    assert node.logical is not None
    name = node.logical.name
    if name == "decimal":
        return _decimal(node.logical.precision, node.logical.scale, chance)
    if name == "uuid":
        return UUID(int=chance.getrandbits(128))
    if name == "date":
        return date(1970, 1, 1) + timedelta(days=chance.randint(-300_000, 300_000))
    moment = _EPOCH + timedelta(microseconds=chance.randint(-(10**16), 10**16))
    if name.endswith("millis"):
        moment -= timedelta(microseconds=moment.microsecond % 1000)
    kind = name.rpartition("-")[0]
    return moment if kind == "timestamp" else moment.time() if kind == "time" else moment.replace(tzinfo=None)
