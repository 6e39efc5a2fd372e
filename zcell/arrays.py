"""Adapters for numpy arrays and torch tensors. Invariant: no pickle; an array is its dtype, its shape and its bytes.

They register themselves the first time an object of such a package is met, so neither package is imported before it is needed.
"""

from __future__ import annotations

import importlib
from typing import Any

from zcell.codec import Codec
from zcell.errors import CodecError

_MAX_DIMENSIONS = 64


def _encode_array(array: Any) -> list[Any]:
    import numpy as np

    if array.dtype.hasobject:
        raise CodecError("a numpy array of dtype object is not supported; only fixed-size elements travel")
    descr = array.dtype.str if array.dtype.names is None else [list(f) for f in array.dtype.descr]
    flat = np.ascontiguousarray(array)
    return [descr, list(array.shape), flat.reshape(-1).view(np.uint8).data if flat.size else b""]


def _decode_array(payload: Any) -> Any:
    import numpy as np

    descr, shape, data = payload
    if isinstance(descr, list):
        descr = [tuple(tuple(x) if isinstance(x, list) else x for x in f) for f in descr]
    dtype = np.dtype(descr)
    if dtype.hasobject:
        raise CodecError("a numpy array of dtype object is refused")
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError(f"a numpy array of the impossible shape {shape!r}")
    count = 1
    for n in shape:
        count *= n
    if count * dtype.itemsize != memoryview(data).nbytes:
        raise CodecError(f"a numpy array of shape {shape!r} and type {dtype} with {memoryview(data).nbytes} bytes of data")
    return np.frombuffer(data, dtype).reshape(shape) if count else np.zeros(shape, dtype)


def _encode_scalar(value: Any) -> list[Any]:
    if value.dtype.hasobject:
        raise CodecError("a numpy scalar of dtype object is not supported")
    return [value.dtype.str, value.tobytes()]


def _decode_scalar(payload: Any) -> Any:
    import numpy as np

    dtype = np.dtype(payload[0])
    if dtype.hasobject or len(payload[1]) != dtype.itemsize:
        raise CodecError("a malformed numpy scalar")
    return np.frombuffer(payload[1], dtype)[0]


def _encode_tensor(tensor: Any) -> list[Any]:
    if tensor.device.type != "cpu":
        raise CodecError(f"a torch tensor on {tensor.device} cannot travel; move it to the CPU first")
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), memoryview(raw)]


def _decode_tensor(payload: Any) -> Any:
    import torch

    name, shape, data = payload
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise CodecError(f"a torch tensor of the unknown dtype {name!r}")
    if not memoryview(data).nbytes:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)


def register_arrays(codec: Codec, package: str) -> bool:
    """Register numpy's arrays and scalars, or torch's CPU tensors, with `codec`; False when `package` is not installed."""
    try:
        module = importlib.import_module(package)
    except ImportError:
        return False
    if package == "torch":
        codec.register(module.Tensor, "torch.Tensor", _encode_tensor, _decode_tensor)
        return True
    codec.register(module.ndarray, "numpy.ndarray", _encode_array, _decode_array)
    for scalar in {t for t in module.sctypeDict.values() if t is not module.object_}:
        codec.register(scalar, f"numpy.{scalar.__name__}", _encode_scalar, _decode_scalar)
    return True
