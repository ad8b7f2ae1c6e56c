"""The model to derive a state from: what a stream's events add up to."""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from gatelog.core.errors import SchemaError
from gatelog.core.telling import told
from gatelog.schemas.envelope import RecordedEvent


class State(BaseModel):
    """The state of a stream. Every field has a default: together they are the state before the first event.

    Say in ``apply`` what an event changes::

        class Order(State, version=2):
            total: Decimal = Decimal(0)
            is_paid: bool = False

            def apply(self, event: RecordedEvent) -> None:
                match event.data:
                    case OrderPlaced(total=total):
                        self.total = total
                    case OrderPaid():
                        self.is_paid = True

    Snapshots of it are used by programs with the same fields and the same ``version``. Raise that when ``apply``
    comes to other results with the same fields.
    """

    model_config = ConfigDict(extra="forbid")

    state_version: ClassVar[int] = 1
    _stream_version: int = PrivateAttr(0)

    def __init_subclass__(cls, *, version: int = 1, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        """Let ``version`` pass; it is used when the fields are known."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, version: int = 1, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's own
        """Check that there is a state before the first event."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.state_version = version
        if required := [name for name, info in cls.model_fields.items() if info.is_required()]:
            raise SchemaError(
                f"State {cls.__name__}: give {', '.join(required)} a default, the state before any event."
            )

    def apply(self, event: RecordedEvent) -> None:
        """Change the state by one event. Events come by version, each once; pass over those that say nothing."""
        raise NotImplementedError(f"{type(self).__name__} does not say what an event changes: define apply().")

    @property
    def stream_version(self) -> int:
        """The version of the stream that is included: what an append of a decision expects."""
        return self._stream_version


def name_of(state: type[State]) -> str:
    """Return the name under which snapshots of a state are kept: module and class, for a script its file and class.

    Every script is ``__main__``: two of them may have classes of one name, with the same fields for different things.
    """
    module = state.__module__
    if module == "__main__":
        main = sys.modules[module]
        spec, file = main.__spec__, getattr(main, "__file__", None)
        module = spec.name if spec is not None else str(Path(file).resolve()) if file else module
    return f"{module}.{state.__qualname__}"


@cache
def fingerprint(state: type[State]) -> str:
    """Return what tells a state's model from other ones, and from itself before it was changed.

    Raises:
        SchemaError: its fields have no JSON form, so that no snapshot of it can be kept.
    """
    try:
        schema = state.model_json_schema(mode="serialization")
    except Exception as error:  # pydantic's, or one of the fields' own classes
        raise SchemaError(
            f"State {state.__name__} cannot be kept in snapshots: {told(error)}. "
            "Fold with snapshot_every=0, or change the field."
        ) from error
    text = json.dumps([schema, state.state_version], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
