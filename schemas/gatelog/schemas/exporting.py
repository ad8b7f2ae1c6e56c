"""``python -m gatelog.schemas.exporting FILE MODULE…``: the Avro schemas of models as JSON, from another tree.

A module that is not there has no models; one that does not load is an error.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from gatelog.core.errors import SchemaError, UserModuleError
from gatelog.schemas.sources import models_of


def main(output: Path, modules: list[str]) -> None:
    """Write ``{event type: schema}``."""
    models = models_of([module for module in modules if _exists(module)], may_be_none=True)
    schemas = {model.event_type: model.avro_schema() for model in models}
    output.write_text(json.dumps(schemas), encoding="utf-8")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except (SchemaError, UserModuleError) as error:
        sys.exit(str(error))
