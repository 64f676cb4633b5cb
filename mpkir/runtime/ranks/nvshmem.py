"""A heap of GPUs by NVSHMEM: on several hosts, or on one.

The library is the PyPI package nvidia-nvshmem-cu13, by its host interface (docs.nvidia.com/nvshmem:
`nvshmemx_hostlib_init_attr` with a unique id, `nvshmem_malloc`, `nvshmem_ptr`,
`nvshmemx_cumodule_init`), loaded when it is first used. Kernels store to the addresses that it
gives, like those of any other heap. Ranks for which it has none, because only a network lies
between, are far: kernels that were compiled for it reach them by NVSHMEM's device interface.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.group import Group
from mpkir.runtime.ranks.nvshmem_package import HOST_LIBRARY, package_folder

_WITH_UNIQUE_ID = 1 << 3
_STARTED: list[int] = []
"""How many ranks this process has met: the library is started once."""


class UniqueId(ctypes.Structure):
    """`nvshmemx_uniqueid_v1`: where the first process waits for the others."""

    _fields_ = (("version", ctypes.c_int), ("internal", ctypes.c_char * 124))


class UniqueIdArgs(ctypes.Structure):
    """`nvshmemx_uniqueid_args_v1`."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("id", ctypes.c_void_p),
        ("myrank", ctypes.c_int),
        ("nranks", ctypes.c_int),
    )


class InitArgs(ctypes.Structure):
    """`nvshmemx_init_args_v1`."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("uid_args", UniqueIdArgs),
        ("content", ctypes.c_char * 96),
    )


class InitAttr(ctypes.Structure):
    """`nvshmemx_init_attr_v1`."""

    _fields_ = (("version", ctypes.c_int), ("mpi_comm", ctypes.c_void_p), ("args", InitArgs))


class Nvshmem:
    """Memory of `size` bytes on the GPU of each rank of a group; see `Heap`.

    It is kept until the process ends: to give it back, all ranks would have to agree. Raises
    MpkirError if the library is not installed or does not start.
    """

    def __init__(self, size: int, device: torch.device, group: Group) -> None:
        self._library = load_library()
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            if not _STARTED:
                self._start(group)
                _STARTED.append(group.ranks)
            self._begin = self._library.nvshmem_malloc(size)
            if not self._begin:
                raise MpkirError(f"NVSHMEM has no {size} bytes of memory on {device}")
            self.memory = torch.as_tensor(_Bytes(self._begin, size), device=device)
            self.memory.zero_()
            torch.cuda.synchronize(device)
        begins = [self._library.nvshmem_ptr(self._begin, rank) for rank in range(group.ranks)]
        self.far = _far_from(group, [rank for rank, begin in enumerate(begins) if not begin])
        self.deltas = tuple(
            0 if rank in self.far else begin - self._begin for rank, begin in enumerate(begins)
        )
        group.barrier()

    def enter(self, module: int) -> None:
        """Let the kernels of a loaded module, a CUmodule, reach far ranks."""
        _check(
            self._library.nvshmemx_cumodule_init(module),
            "take the kernel",
            "compile it again with the nvidia-nvshmem-cu13 that is installed here",
        )

    def _start(self, group: Group) -> None:
        """Let the library meet the others, where rank 0 says."""
        library = self._library
        own = UniqueId(_version(UniqueId))
        if group.rank == 0:
            _check(library.nvshmemx_get_uniqueid(ctypes.byref(own)), "open a port")
        given = UniqueId.from_buffer_copy(group.gather(bytes(own))[0])
        attr = InitAttr(_version(InitAttr))
        attr.args.version = _version(InitArgs)
        attr.args.uid_args.version = _version(UniqueIdArgs)
        status = library.nvshmemx_set_attr_uniqueid_args(
            group.rank, group.ranks, ctypes.byref(given), ctypes.byref(attr)
        )
        _check(status, "take its arguments")
        _check(
            library.nvshmemx_hostlib_init_attr(_WITH_UNIQUE_ID, ctypes.byref(attr)),
            "start",
            "see what it says with NVSHMEM_DEBUG=INFO",
        )


def _far_from(group: Group, own: list[int]) -> tuple[int, ...]:
    """The ranks that are far: those that this one has no address for, and those that have none for
    it, so that both sides of a pair agree."""
    said: list[list[int]] = [json.loads(each) for each in group.gather(json.dumps(own).encode())]
    return tuple(
        rank for rank, others in enumerate(said) if rank in said[group.rank] or group.rank in others
    )


class _Bytes:
    """Memory of a GPU that torch did not allocate, as it can take it over."""

    def __init__(self, begin: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (begin, False),
            "version": 3,
        }


def load_library() -> ctypes.CDLL:
    """NVSHMEM's host library. Raises MpkirError if it is not installed."""
    return _declared(package_folder() / HOST_LIBRARY)


def _declared(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise MpkirError(f"NVSHMEM cannot be loaded ({error})", where=str(path)) from error
    library.nvshmem_malloc.argtypes = [ctypes.c_size_t]
    library.nvshmem_malloc.restype = ctypes.c_void_p
    library.nvshmem_ptr.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.nvshmem_ptr.restype = ctypes.c_void_p
    library.nvshmemx_cumodule_init.argtypes = [ctypes.c_void_p]
    for name in (
        "nvshmemx_cumodule_init",
        "nvshmemx_get_uniqueid",
        "nvshmemx_set_attr_uniqueid_args",
        "nvshmemx_hostlib_init_attr",
    ):
        getattr(library, name).restype = ctypes.c_int
    return library


def _version(kind: type[ctypes.Structure]) -> int:
    """How NVSHMEM marks the first version of a structure."""
    return (1 << 16) + ctypes.sizeof(kind)


def _check(status: int, what: str, hint: str = "") -> None:
    if status != 0:
        raise MpkirError(f"NVSHMEM could not {what} (status {status})", hint=hint or None)
