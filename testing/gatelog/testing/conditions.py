"""Payload conditions judged in plain Python, as Postgres judges them."""

import operator
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import orjson

from gatelog.reader.where import Condition

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER: Final = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")


def holds(conditions: Sequence[Condition], payload: Any) -> bool:  # noqa: ANN401 - a JSON value
    """Say whether a payload, in its JSON form, fits all conditions."""
    return all(_holds(condition, payload) for condition in conditions)


def _holds(condition: Condition, payload: Any) -> bool:  # noqa: ANN401 - a JSON value
    found = payload
    for name in condition.path:
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    compare = _COMPARE[condition.operator]
    if condition.kind == "json":
        return _contains(found, orjson.loads(condition.value))  # type: ignore[arg-type] # text, of this kind
    if condition.kind == "number":
        number = _number(found)
        return number is not None and compare(number, condition.value)
    text = _text(found)
    return text is not None and compare(text.encode(), str(condition.value).encode())


def _number(found: Any) -> Decimal | None:  # noqa: ANN401 - a JSON value
    if isinstance(found, bool) or not isinstance(found, (int, float, str)):
        return None
    if isinstance(found, str) and not _NUMBER.fullmatch(found):
        return None
    return Decimal(str(found))


def _text(found: Any) -> str | None:  # noqa: ANN401 - a JSON value
    if found is None or isinstance(found, str):
        return found
    return orjson.dumps(found).decode()


def _contains(there: Any, wanted: Any) -> bool:  # noqa: ANN401 - JSON values
    """Say whether ``there`` contains ``wanted`` as jsonb's ``@>`` means it."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and _contains(there[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(there, list) and all(any(_contains(each, one) for each in there) for one in wanted)
    return type(there) is type(wanted) and bool(there == wanted)
