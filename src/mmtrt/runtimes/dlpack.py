"""Tensors of other packages, and ours for them, without a copy: DLPack's capsules by ctypes, of both their versions.

`take` reads what `__dlpack__` gives, `capsule_of` makes one. The layout is that of dlpack.h, 0.8 and 1.0.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtrt.errors import InputError
from mmtrt.tensors import Array

__all__ = ["CPU", "CUDA", "CUDA_HOST", "CUDA_MANAGED", "Taken", "capsule_of", "device_of", "take"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""DLPack's numbers of kinds of devices."""
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_NAMES = {_INT: "int", _UINT: "uint", _FLOAT: "float", _BFLOAT: "bfloat", _COMPLEX: "complex"}
_CODES = {"i": _INT, "u": _UINT, "f": _FLOAT, "c": _COMPLEX, "b": _BOOL}
_READ_ONLY = 1
_MAJOR = 1

_OLD, _NEW = b"dltensor", b"dltensor_versioned"
_USED_OLD, _USED_NEW = b"used_dltensor", b"used_dltensor_versioned"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# It is called by who holds the capsule, from any thread, also one that doesn't hold the interpreter's lock.
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Old(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _New(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


# A destructor is handed a capsule that is dying: as a plain pointer, since to count a reference would revive it.
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_python = ctypes.PyDLL(None)
_is_valid = _python.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_get_pointer = _python.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)
_set_name = _python.PyCapsule_SetName
_set_name.restype, _set_name.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _python.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


# --------------------------------------------------------------------------------------------- taking


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A tensor of somebody else's; it is theirs again after `release`, which is to be called once.

    `strides` are bytes; `dtype` is numpy's name, also of what numpy lacks (`bfloat16`).
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: tuple[int, int]
    read_only: bool
    release: Callable[[], None]

    @property
    def nbytes(self) -> int:
        """Bytes of all its elements."""
        return math.prod(self.shape) * _item_bytes(self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie one after another, the last axis fastest."""
        return not self.nbytes or all(
            size == 1 or stride == wanted
            for size, stride, wanted in zip(
                self.shape, self.strides, _dense(self.shape, _item_bytes(self.dtype)), strict=True
            )
        )

    def span(self) -> tuple[int, int]:
        """Return the bytes from its lowest element to its highest, and how many lie before its first."""
        reach = [stride * (size - 1) for size, stride in zip(self.shape, self.strides, strict=True)]
        before = -sum(min(0, step) for step in reach)
        return before + sum(max(0, step) for step in reach) + _item_bytes(self.dtype), before

    def array(self) -> Array:
        """Return a view on memory that the host can read; it must not be used after `release`."""
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        span, before = self.span()
        memory = (ctypes.c_uint8 * span).from_address(self.pointer - before)
        view: Array = np.ndarray(self.shape, self.dtype, memoryview(memory), before, self.strides)
        view.flags.writeable = not self.read_only
        return view


def device_of(source: Any, what: str) -> tuple[int, int]:
    """Return kind and number of the device where a tensor lies."""
    try:
        kind, index = source.__dlpack_device__()
    except Exception as error:
        raise InputError(f"{what} doesn't tell where it lies: {error}") from error
    return int(kind), int(index)


def take(source: Any, what: str, *, stream: int | None = None) -> Taken:
    """Take a tensor by its `__dlpack__`; the producer lets `stream` wait for it, where it lies on a GPU.

    InputError where it gives none, was taken before, has been freed, or holds what no tensor here can be.
    """
    try:
        capsule = source if not hasattr(source, "__dlpack__") else _asked(source, stream)
    except Exception as error:
        raise InputError(
            f"{what} can't be taken by DLPack: {error}", fix="A tensor that needs gradients gives itself by .detach()."
        ) from error
    handle = id(capsule)
    if _is_valid(handle, _NEW):
        managed: _Old | _New = _New.from_address(_get_pointer(handle, _NEW))
        if managed.major != _MAJOR:
            raise InputError(f"{what} speaks DLPack {managed.major}, and mmtrt speaks {_MAJOR}")
        _set_name(handle, _USED_NEW)
        read_only = bool(managed.flags & _READ_ONLY)
    elif _is_valid(handle, _OLD):
        managed = _Old.from_address(_get_pointer(handle, _OLD))
        _set_name(handle, _USED_OLD)
        read_only = False
    elif _is_valid(handle, _USED_OLD) or _is_valid(handle, _USED_NEW):
        raise InputError(
            f"{what} is a DLPack capsule that was taken before", fix="Hand in the tensor itself, not its capsule."
        )
    else:
        raise InputError(f"{what} is {type(source).__name__}, which is no tensor")
    release = _once(managed)
    try:
        return _taken(managed.tensor, what, read_only=read_only, release=release)
    except BaseException:
        release()
        raise


def _asked(source: Any, stream: int | None) -> Any:
    told = {} if stream is None else {"stream": stream}
    try:
        return source.__dlpack__(**told, max_version=(_MAJOR, 0))
    except TypeError:
        # A package older than DLPack 1.0 knows no versions.
        return source.__dlpack__(**told)


def _once(managed: _Old | _New) -> Callable[[], None]:
    """Return what gives a tensor back: once, whoever calls."""
    due = [managed.deleter] if ctypes.cast(managed.deleter, ctypes.c_void_p).value else []
    address = ctypes.addressof(managed)

    def release() -> None:
        try:
            deleter = due.pop()
        except IndexError:
            return
        deleter(address)

    return release


def _taken(tensor: _Tensor, what: str, *, read_only: bool, release: Callable[[], None]) -> Taken:
    dtype = _dtype_name(tensor.dtype, what)
    item = _item_bytes(dtype)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * item for axis in range(tensor.ndim))
    else:
        strides = _dense(shape, item)
    if not tensor.data and math.prod(shape):
        raise InputError(f"{what} has no memory: it was freed", fix="Keep the tensor until the run is over.")
    return Taken(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=strides,
        dtype=dtype,
        device=(tensor.device.kind, tensor.device.index),
        read_only=read_only,
        release=release,
    )


def _dtype_name(dtype: _Type, what: str) -> str:
    if dtype.lanes != 1:
        raise InputError(f"{what} has elements of {dtype.lanes} lanes", fix="Hand in a tensor of plain numbers.")
    if dtype.code == _BOOL:
        return "bool"
    if dtype.code not in _NAMES or dtype.bits % 8 or not dtype.bits:
        raise InputError(f"{what} has elements of a type that mmtrt does not know: {dtype.code}, {dtype.bits} bits")
    return f"{_NAMES[dtype.code]}{dtype.bits}"


def _item_bytes(dtype: str) -> int:
    return 1 if dtype == "bool" else int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


def _dense(shape: Sequence[int], item: int) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps, bytes."""
    return tuple(item * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# --------------------------------------------------------------------------------------------- giving

_given: dict[int, tuple[Any, Any, Callable[[], None]]] = {}
"""What each capsule that somebody holds is made of, by its address, and what to call when they are done."""


def _forget(address: int) -> None:
    # It may be called by the garbage collector, in the middle of anything: so there is no lock here.
    kept = _given.pop(address, None)
    if kept is not None:
        kept[2]()


def _destroy(capsule: int) -> None:
    # Who took it has renamed it, and calls the deleter; this one nobody took.
    for name in (_OLD, _NEW):
        if _is_valid(capsule, name):
            _forget(_get_pointer(capsule, name))


_forgets = _Deleter(_forget)
_destroys = _Destructor(_destroy)


def capsule_of(
    *,
    pointer: int,
    shape: Sequence[int],
    dtype: str,
    device: tuple[int, int],
    done: Callable[[], None],
    versioned: bool = True,
    read_only: bool = False,
) -> Any:
    """Return a capsule over memory without gaps, which must stay until `done` is called: once, from any thread."""
    kind = np.dtype(dtype)
    sizes = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    steps = (ctypes.c_int64 * max(len(shape), 1))(*_dense(shape, 1))
    tensor = _Tensor(
        data=pointer,
        device=_Device(*device),
        ndim=len(shape),
        dtype=_Type(code=_CODES[kind.kind], bits=8 * kind.itemsize, lanes=1),
        shape=sizes,
        strides=steps,
        byte_offset=0,
    )
    managed: _Old | _New
    if versioned:
        managed = _New(major=_MAJOR, minor=0, deleter=_forgets, flags=_READ_ONLY * read_only, tensor=tensor)
    else:
        managed = _Old(tensor=tensor, deleter=_forgets)
    address = ctypes.addressof(managed)
    _given[address] = (managed, (sizes, steps), done)
    return _new_capsule(address, _NEW if versioned else _OLD, ctypes.cast(_destroys, ctypes.c_void_p))
