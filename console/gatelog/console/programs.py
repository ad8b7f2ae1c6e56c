"""Finds what a command is to run in a user's own program: ``module:name``."""

from typing import TypeVar

from gatelog.core.errors import InvalidInputError
from gatelog.core.programs import import_module

T = TypeVar("T")


def imported(target: str, *kinds: type[T]) -> T:
    """Return the object that ``module:name`` or ``path/to/module.py:name`` means, if it is of one of ``kinds``.

    Raises:
        UserModuleError: there is no such module, or it does not load.
        InvalidInputError: there is nothing of that name in it, or of another kind.
    """
    module, colon, name = target.rpartition(":")
    if not (module and colon and name):
        raise InvalidInputError(f"{target!r}: say MODULE:NAME, for example billing:app or shop/billing.py:app.")
    found = getattr(import_module(module), name, None)
    if not isinstance(found, kinds):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise InvalidInputError(f"{target!r} is {what}, not a {' or a '.join(kind.__name__ for kind in kinds)}.")
    return found
