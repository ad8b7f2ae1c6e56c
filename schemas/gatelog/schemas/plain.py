"""A model as the plain values that fastavro writes: made with as few steps as its fields need."""

import types
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

Convert: TypeAlias = Callable[[Any], Any]
_UNIONS: Final = (Union, types.UnionType)


def plain_of(model: type[BaseModel]) -> Callable[[BaseModel], dict[str, Any]]:
    """Return a function that turns an instance of ``model`` into a dict; a flat one is its own dict, not a copy."""
    converts = {
        name: convert
        for name, info in model.model_fields.items()
        if (convert := _convert(info.annotation, {model})) is not None
    }
    if not converts:
        return lambda event: event.__dict__
    some = tuple(converts.items())

    def plain(event: BaseModel) -> dict[str, Any]:
        found = event.__dict__.copy()
        for name, convert in some:
            found[name] = convert(found[name])
        return found

    return plain


def _convert(annotation: Any, above: set[Any]) -> Convert | None:  # noqa: ANN401 - any annotation
    """Return what a field's value needs, None where fastavro takes it as it is."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _convert(args[0], above)
    if isinstance(annotation, type) and origin is None:
        return _convert_class(annotation, above)
    if origin in {list, set, frozenset, tuple}:
        return _convert_items(origin, args, above)
    if origin is dict:
        value = _convert(args[1], above)
        return None if value is None else lambda found: {key: value(each) for key, each in found.items()}
    if origin in _UNIONS:
        return _convert_union([arg for arg in args if arg is not type(None)], len(args), above)
    return None if not any(_convert(arg, above) for arg in args) else anything


def _convert_class(annotation: type, above: set[Any]) -> Convert | None:
    if issubclass(annotation, Enum):
        return _value
    if annotation in above:  # recursive: by the values themselves
        return anything
    if issubclass(annotation, BaseModel):
        return _exactly(annotation, plain_of(annotation)) if not _is_recursive(annotation, above) else anything
    return anything if issubclass(annotation, (set, frozenset)) else None


def _convert_items(origin: Any, args: tuple[Any, ...], above: set[Any]) -> Convert | None:  # noqa: ANN401 - any origin
    item = _convert(args[0], above) if args else anything
    if item is not None:
        return lambda found: [item(each) for each in found]
    return list if origin in {set, frozenset} else None


def _convert_union(branches: list[Any], count: int, above: set[Any]) -> Convert | None:
    converts = [_convert(branch, above) for branch in branches]
    if not any(converts):
        return None
    only = converts[0]
    if len(branches) == 1 and count > 1 and only is not None:  # X | None
        return lambda found: None if found is None else only(found)
    return anything


def _exactly(model: type[BaseModel], plain: Convert) -> Convert:
    """A field may hold an instance of a subclass, whose fields are others."""
    return lambda found: plain(found) if type(found) is model else anything(found)


def _is_recursive(model: type[BaseModel], above: set[Any]) -> bool:
    """Say whether a model holds itself or one of those that hold it."""
    seen: set[Any] = set()
    left = [info.annotation for info in model.model_fields.values()]
    while left:
        annotation = left.pop()
        if annotation is model or annotation in above:
            return True
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            seen.add(annotation)
            left += [info.annotation for info in annotation.model_fields.values()]
        left += get_args(annotation)
    return False


def _value(found: Any) -> Any:  # noqa: ANN401 - an enum's value
    return found.value if isinstance(found, Enum) else found


def anything(value: Any) -> Any:  # noqa: ANN401 - a field's value
    """Return any value as fastavro takes it."""
    if isinstance(value, BaseModel):
        return {name: anything(each) for name, each in value.__dict__.items()}
    if isinstance(value, dict):
        return {name: anything(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [anything(each) for each in value]
    return value.value if isinstance(value, Enum) else value
