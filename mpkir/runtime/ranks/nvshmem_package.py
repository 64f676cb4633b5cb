"""Where NVSHMEM is: the PyPI package nvidia-nvshmem-cu13, its headers and libraries for hosts and
kernels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mpkir.errors import MpkirError

HEADERS = Path("include")
DEVICE_LIBRARY = Path("lib", "libnvshmem_device.a")
HOST_LIBRARY = Path("lib", "libnvshmem_host.so.3")
_VERSION = HEADERS / "non_abi" / "nvshmem_version.h"


def package_folder() -> Path:
    """The package's folder. Raises MpkirError if it is not installed."""
    try:
        spec = find_spec("nvidia.nvshmem")
    except ModuleNotFoundError:
        spec = None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in map(Path, folders):
        if (folder / HOST_LIBRARY).is_file():
            return folder
    raise MpkirError(
        "ranks on several hosts need NVSHMEM, which is not installed",
        hint="pip install nvidia-nvshmem-cu13",
    )


def version_of(folder: Path) -> str:
    """What the package's headers say of its version."""
    return (folder / _VERSION).read_text(encoding="utf-8")
