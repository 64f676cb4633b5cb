"""How the interpreter holds tensors: each element type has a *carrier*, the dtype it computes in.

Floats narrower than 32 bits are carried as float32 arrays of representable values, so that
arithmetic needs no conversion and a weight is widened once. Only `to_storage` and the rounding at
an operator's result type know the narrow form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IndexType,
    IntegerType,
    MemRefType,
    TensorType,
)
from xdsl.ir import Attribute

from mpkir.errors import MpkirError

Array: TypeAlias = npt.NDArray[Any]

_FLOATS: dict[type[Attribute], npt.DTypeLike] = {
    BFloat16Type: ml_dtypes.bfloat16,
    Float16Type: np.float16,
    Float32Type: np.float32,
    Float64Type: np.float64,
}
_INTEGERS: dict[int, npt.DTypeLike] = {
    1: np.bool_,
    8: np.int8,
    16: np.int16,
    32: np.int32,
    64: np.int64,
}


def storage_dtype(element_type: Attribute) -> np.dtype[Any]:
    """The dtype in which arrays of this element type enter and leave the interpreter."""
    if (found := _FLOATS.get(type(element_type))) is not None:
        return np.dtype(found)
    if isinstance(element_type, IndexType):
        return np.dtype(np.int64)
    if isinstance(element_type, IntegerType) and element_type.width.data in _INTEGERS:
        return np.dtype(_INTEGERS[element_type.width.data])
    raise MpkirError(f"the interpreter has no form for elements of type {element_type}")


def carrier_dtype(element_type: Attribute) -> np.dtype[Any]:
    """The dtype in which the interpreter computes with this element type."""
    if isinstance(element_type, (BFloat16Type, Float16Type)):
        return np.dtype(np.float32)
    return storage_dtype(element_type)


def rounding_to(element_type: Attribute) -> Callable[[Array], Array]:
    """A function that rounds an array to the nearest values of this type (ties to even), in its
    carrier."""
    storage, carrier = storage_dtype(element_type), carrier_dtype(element_type)
    if storage == carrier:
        return lambda x: x.astype(carrier, copy=False)
    return lambda x: x.astype(storage).astype(carrier)


def element_type_of(type: Attribute) -> Attribute:
    """The element type of a tensor or buffer; of a scalar, the scalar's type."""
    return type.get_element_type() if isinstance(type, (TensorType, MemRefType)) else type


def to_carrier(array: Array, type: Attribute, what: str) -> Array:
    """Check that an array from outside has a tensor or buffer type's shape and dtype; copy it to
    the carrier.

    Raises MpkirError that begins with `what`, e.g. "weight 'lm_head'".
    """
    assert isinstance(type, (TensorType, MemRefType))
    storage = storage_dtype(type.get_element_type())
    if array.dtype != storage or array.shape != type.get_shape():
        raise MpkirError(
            f"{what} is {array.dtype}{list(array.shape)}, "
            f"the program wants {storage}{list(type.get_shape())}"
        )
    return array.astype(carrier_dtype(type.get_element_type()))


def to_storage(array: Array, type: Attribute) -> Array:
    """An array in its carrier as a new array of the dtype it is stored in."""
    return array.astype(storage_dtype(element_type_of(type)))
