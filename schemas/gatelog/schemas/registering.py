"""What a program may register by itself, in development: what fits, or what an upcaster leads to."""

from collections.abc import Sequence

from gatelog.schemas.checking import problems
from gatelog.schemas.evolution import number_of
from gatelog.schemas.registry import AvroSchema, Compatibility, RegisteredSchema
from gatelog.schemas.upcasting import steps_of


def fits_or_is_upcast(
    level: Compatibility, definition: AvroSchema, versions: Sequence[RegisteredSchema]
) -> Sequence[str]:
    """Judge a registration: a ``Check`` for ``Registry.register``.

    A version that does not fit the last one is meant so if this program has an upcaster from the last one.
    """
    if versions and number_of(versions[-1]) in steps_of(versions[-1].subject):
        return []
    return problems(level, definition, versions)
