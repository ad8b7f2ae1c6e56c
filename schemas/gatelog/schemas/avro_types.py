"""What models say where Python's types say less than Avro: 32-bit numbers, milliseconds, fixed, names, aliases."""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated, Any, Final, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, GetCoreSchemaHandler, NaiveDatetime
from pydantic_core import CoreSchema, core_schema

_T = TypeVar("_T", bound=type)
_NAMED: Final = "__avro_named__"
_ISO: Final = re.compile(r"P(?:(\d+)M)?(?:(\d+)D)?(?:T(\d+)(?:\.(\d{1,3}))?S)?")
_DURATION: Final = struct.Struct("<III")
_SINGLE: Final = struct.Struct("<f")


@dataclass(frozen=True, slots=True, eq=False)
class As:
    """The Avro type of an annotation, in place of the one that would follow from it."""

    schema: Any


@dataclass(frozen=True, slots=True, eq=False)
class Aliases:
    """Earlier names of a field: ``customer: Annotated[str, Aliases("client")]`` reads what was written as client."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """Bytes of one length, under a name: ``Annotated[bytes, Fixed("Digest", 32)]``.

    Also for decimals (``Annotated[Decimal, Field(max_digits=9, decimal_places=2), Fixed("Money", 8)]``), UUID (16
    bytes) and Duration (12). A full name (``shop.Digest``) puts it into a namespace.
    """

    name: str
    size: int
    aliases: Sequence[str] = ()
    doc: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Bytes are checked for their length; for the other types it follows from the type."""
        inner = handler(source)
        if source is not bytes:
            return inner
        return core_schema.no_info_after_validator_function(self._checked, inner)

    def _checked(self, value: bytes) -> bytes:
        if len(value) != self.size:
            raise ValueError(f"{self.name} holds {self.size} bytes, not {len(value)}")
        return value


@dataclass(frozen=True, slots=True)
class Naming:
    """What ``named`` said of a class."""

    name: str | None
    aliases: tuple[str, ...]
    doc: str | None
    default: str | None


def named(
    name: str | None = None, *, aliases: Sequence[str] = (), doc: str | None = None, default: str | None = None
) -> Callable[[_T], _T]:
    """Say what Avro calls a nested model or an enum, when it is not just the name of the class.

    ``@named("shop.Line", aliases=["Item"])``. For an event, ``aliases`` and ``doc`` only: its name is its event type.
    ``default``, for enums: the symbol that readers take for one that they do not know.
    """

    def keep(cls: _T) -> _T:
        type.__setattr__(cls, _NAMED, Naming(name, tuple(aliases), doc, default))
        return cls

    return keep


def naming_of(cls: type) -> Naming:
    """Return what ``named`` said of exactly this class."""
    found = vars(cls).get(_NAMED)
    return found if isinstance(found, Naming) else Naming(None, (), None, None)


class Duration(bytes):
    """Avro's duration: months, days and milliseconds, each 0 to 2³² - 1, kept apart since none is made of another.

    In JSON it is ISO 8601: ``P1M2DT3.500S``.
    """

    def __new__(cls, months: int = 0, days: int = 0, millis: int = 0) -> Self:
        """Make one.

        Raises:
            ValueError: a part is negative, or too large.
        """
        try:
            return super().__new__(cls, _DURATION.pack(months, days, millis))
        except struct.error as error:
            raise ValueError(f"months, days and milliseconds are 0 to {2**32 - 1:,}: {error}") from None

    @property
    def months(self) -> int:
        """Whole months."""
        return int(_DURATION.unpack(self)[0])

    @property
    def days(self) -> int:
        """Whole days."""
        return int(_DURATION.unpack(self)[1])

    @property
    def millis(self) -> int:
        """Milliseconds."""
        return int(_DURATION.unpack(self)[2])

    def __str__(self) -> str:
        """Return it in ISO 8601."""
        return f"P{self.months}M{self.days}DT{self.millis // 1000}.{self.millis % 1000:03}S"

    def __repr__(self) -> str:
        """Return the expression that makes it."""
        return f"Duration(months={self.months}, days={self.days}, millis={self.millis})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it by its parts."""
        return Duration, (self.months, self.days, self.millis)

    @classmethod
    def of(cls, value: object) -> "Duration":
        """Return a duration from itself, its 12 bytes, or ISO 8601.

        Raises:
            ValueError: it is none of them.
        """
        if isinstance(value, Duration):
            return value
        if isinstance(value, bytes) and len(value) == _DURATION.size:
            return cls(*_DURATION.unpack(value))
        if isinstance(value, str) and value != "P" and (found := _ISO.fullmatch(value)):
            months, days, seconds, fraction = found.groups("0")
            return cls(int(months), int(days), int(seconds) * 1000 + int(fraction.ljust(3, "0")))
        raise ValueError("a duration is P1M2DT3.500S, 12 bytes, or gatelog.schemas.Duration")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """See ``of``."""
        return core_schema.no_info_plain_validator_function(
            cls.of, serialization=core_schema.to_string_ser_schema(when_used="json")
        )


def _whole_millis(value: Any) -> Any:  # noqa: ANN401 - a datetime or a time
    if value.microsecond % 1000:
        raise ValueError("the schema holds milliseconds, and this has microseconds; round it first")
    return value


def _single(value: float) -> float:
    """The nearest 32-bit float: what a reader will see."""
    try:
        return float(_SINGLE.unpack(_SINGLE.pack(value))[0])
    except OverflowError:
        raise ValueError("beyond what a 32-bit float can hold") from None


Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31), As("int")]
Float32 = Annotated[float, AfterValidator(_single), As("float")]
TimeMillis = Annotated[time, AfterValidator(_whole_millis), As({"type": "int", "logicalType": "time-millis"})]
TimestampMillis = Annotated[
    AwareDatetime, AfterValidator(_whole_millis), As({"type": "long", "logicalType": "timestamp-millis"})
]
LocalTimestampMillis = Annotated[
    NaiveDatetime, AfterValidator(_whole_millis), As({"type": "long", "logicalType": "local-timestamp-millis"})
]

LOGICAL_IN_FIXED: Final[dict[Any, str]] = {UUID: "uuid", Duration: "duration"}
MOMENTS: Final = (datetime, time)
