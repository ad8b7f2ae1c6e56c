"""Users' models: the modules that define them are imported from the working directory, or from where Python looks."""

import importlib
import sys
from pathlib import Path

from gatelog.core.errors import InvalidInputError


def import_models(module: str) -> None:
    """Import a module, so that the events it defines are known.

    Raises:
        InvalidInputError: there is no such module, or it does not import.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InvalidInputError(f"Module {module} does not import: {error}") from error
