"""A model from an Avro schema at run time, for programs that have no class for it (the command line)."""

from importlib import import_module
from typing import Any

from pydantic import BaseModel

from gatelog.core.errors import SchemaError
from gatelog.schemas.avro import Locate
from gatelog.schemas.event import Event
from gatelog.schemas.generate import source_of
from gatelog.schemas.literals import IMPORTS


def model_from(schema: dict[str, Any]) -> type[Event]:
    """Return a model whose events are written with exactly this record schema.

    It is what ``gatelog schema generate`` writes, run at once. Names in the source are checked, and everything else
    from the schema stands in it as a literal.

    Raises:
        SchemaError: it is not a legal record schema, or uses what a model cannot say.
    """
    source, name = source_of(schema, exact=False)
    names: dict[str, Any] = {"__name__": __name__, "dt": import_module("datetime")}
    names |= {each: getattr(import_module(module), each) for each, module in IMPORTS.items() if module}
    try:
        exec(compile(source, f"<{name}>", "exec"), names)  # noqa: S102 - as dataclasses do; see above
        for made in names.values():  # what a class says in quotes is looked up in a module, and this is none
            if isinstance(made, type) and issubclass(made, BaseModel) and made.__module__ == __name__:
                made.model_rebuild(_types_namespace=names)
    except Exception as error:
        raise SchemaError(f"{schema.get('name')}: no model can be made of its schema: {error}") from error
    model: type[Event] = names[name]

    def avro_schema(_cls: type[Event], _locate: Locate | None = None) -> dict[str, Any]:
        return schema

    type.__setattr__(model, "avro_schema", classmethod(avro_schema))
    return model
