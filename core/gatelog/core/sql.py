"""SQL lives in ``.sql`` files beside the part that owns the table; Python looks statements up by name.

A file holds statements, each after a line ``-- name: <name>`` and its comment. ``@store`` stands for the
store's Postgres schema, quoted.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"\A(\s*--.*\n)*")  # pg_stat_activity shows the first 1,024 bytes of a statement


def with_store(text: str, store: str) -> str:
    """Return ``text`` with ``@store`` replaced by the schema; ``store`` is a legal store name."""
    return text.replace("@store", f'"{store}"')


@cache
def queries(package: str, file: str, store: str) -> dict[str, str]:
    """Return the statements of ``file`` in ``package`` by name, for one store, without the comments before them."""
    text = with_store(files(package).joinpath(file).read_text(encoding="utf-8"), store)
    parts = _NAME.split(text)
    return {name: _COMMENT.sub("", body).strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
