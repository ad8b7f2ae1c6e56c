"""Users' own modules, ``shop.events`` or ``shop/events.py``: in the working directory, or where Python looks."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from gatelog.core.errors import UserModuleError

SUFFIX: Final = ".py"


def import_module(module: str) -> ModuleType:
    """Import a user's module, by its name or by the path of its file.

    Raises:
        UserModuleError: there is no such module, or it does not load.
    """
    name, folder = module, Path.cwd()
    if module.endswith(SUFFIX):
        path = Path(module)
        name, folder = path.stem, path.parent.resolve()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserModuleError(module, _reason(error)) from error  # it lacks something that it imports itself
        raise UserModuleError(
            module, f"there is no module {error.name!r} in {folder}, or where Python looks"
        ) from error
    except Exception as error:
        raise UserModuleError(module, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Say what was raised, and where in the user's program."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{where}"
