"""Dataclasses to JSON and back, strictly: a missing, unknown or ill-typed entry is named."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mpkir.errors import MpkirError

T = TypeVar("T")


def encode(record: object) -> Any:
    """Turn nested dataclasses, tuples and dicts into what the json module writes."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {
            field.name: encode(getattr(record, field.name)) for field in dataclasses.fields(record)
        }
    if isinstance(record, Mapping):
        return {key: encode(value) for key, value in record.items()}
    if isinstance(record, tuple | list):
        return [encode(item) for item in record]
    return record


def decode(kind: type[T], value: object, where: str) -> T:
    """Build a `kind` from what the json module read. Raises MpkirError at the first misfit.

    kind: a dataclass whose fields are str, int, float, bool, None, Literal, tuple[X, ...],
    dict[str, X], unions of these, or such dataclasses; of several dataclasses in a union each has a
    field `kind`, a Literal, that tells it from the others
    """
    return _decode(kind, value, where)


def _decode(kind: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise MpkirError(f"found {value!r}, expected one of {choices}", where=where)
        return value
    if origin is tuple:
        items = _expect(list, value, where)
        (item_kind, _) = get_args(kind)
        return tuple(_decode(item_kind, item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        (_, item_kind) = get_args(kind)
        entries = _expect(dict, value, where)
        return {key: _decode(item_kind, item, f"{where}.{key}") for key, item in entries.items()}
    return _expect(kind, value, where)


def _decode_dataclass(kind: type, value: object, where: str) -> Any:
    entries = _expect(dict, value, where)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = entries.keys() - fields.keys()
    if unknown:
        raise MpkirError(f"unknown entry {min(unknown)!r}", where=where)
    optional = {
        name
        for name, field in fields.items()
        if field.default is not dataclasses.MISSING
        or field.default_factory is not dataclasses.MISSING
    }
    missing = fields.keys() - entries.keys() - optional
    if missing:
        raise MpkirError(f"entry {min(missing)!r} is missing", where=where)
    hints = get_type_hints(kind)
    return kind(**{k: _decode(hints[k], item, f"{where}.{k}") for k, item in entries.items()})


def _decode_union(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) == 1:
        return _decode(rest[0], value, where)
    if isinstance(value, dict) and "kind" in value:
        for kind in filter(dataclasses.is_dataclass, rest):
            if value["kind"] in get_args(get_type_hints(kind)["kind"]):
                return _decode(kind, value, where)
    return _expect(tuple(rest), value, where)


def _expect(kind: Any, value: object, where: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # bool is an int to isinstance, but not in JSON; a whole number may stand for a float.
    if type(value) in kinds or (float in kinds and type(value) is int):
        return value
    wanted = " or ".join(one.__name__ for one in kinds)
    raise MpkirError(f"found {type(value).__name__}, expected {wanted}", where=where)
