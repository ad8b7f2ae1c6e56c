"""Finds what a command is to run in a user's own program: ``module:name``."""

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from gatelog.core.errors import InvalidInputError

T = TypeVar("T")


def imported(target: str, kind: type[T]) -> T:
    """Return the object that ``module:name`` or ``path/to/module.py:name`` means.

    Raises:
        InvalidInputError: there is no such module or name, or it is of another kind.
    """
    module, colon, name = target.rpartition(":")
    if not (module and colon and name):
        raise InvalidInputError(f"{target!r}: say MODULE:NAME, for example billing:app or shop/billing.py:app.")
    if module.endswith(".py"):
        path = Path(module)
        sys.path.insert(0, str(path.parent.resolve()))
        module = path.stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # of something that the module imports: its own trace says where
        raise InvalidInputError(f"{target!r}: there is no module {module!r} here ({Path.cwd()}).") from error
    if not isinstance(found, kind):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise InvalidInputError(f"{target!r} is {what}, not a {kind.__name__}.")
    return found
