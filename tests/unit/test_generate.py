"""Schemas become models and models schemas: nothing is lost on the way, whatever the schema."""

import itertools
import json
import random
import sys
import types

from hypothesis import given, settings
from hypothesis import strategies as st
from support.avro_schemas import Schemas

from gatelog.schemas import Event
from gatelog.schemas.definitions import same
from gatelog.schemas.from_avro import model_from
from gatelog.schemas.generate import module_of, source_of

_numbers = itertools.count()


def defined_by(source: str, name: str) -> type[Event]:
    """Import source as a module."""
    module = types.ModuleType(f"generated_{next(_numbers)}")
    sys.modules[module.__name__] = module
    exec(compile(source, module.__name__, "exec"), vars(module))
    del sys.modules[module.__name__]
    model: type[Event] = getattr(module, name)
    return model


@given(st.integers(0, 2**32), st.sampled_from([None, "shop.events"]))
@settings(max_examples=40, deadline=None)
def test_a_schema_comes_back_from_the_models_that_it_became(seed: int, namespace: str | None) -> None:
    """Not up to canonical form: docs, aliases and defaults too."""
    schema = Schemas(random.Random(seed)).record(namespace=namespace)
    source = module_of(schema, "Root.avsc")
    again = defined_by(source, source_of(schema, exact=True)[1]).avro_schema()
    assert same(again, schema), f"{json.dumps(schema)}\n{source}\n{json.dumps(again)}"
    assert module_of(schema, "Root.avsc") == source
    assert model_from(schema).avro_schema() is schema
