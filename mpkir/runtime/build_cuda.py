"""CUDA source to cubin, with nvcc if it is there and NVRTC otherwise; cached by content.

A program whose ranks may be on hosts that only a network connects is linked with NVSHMEM's device
library, which takes nvcc and nvlink.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from mpkir.errors import MpkirError
from mpkir.runtime.ranks.nvshmem_package import DEVICE_LIBRARY, HEADERS, package_folder, version_of

INCLUDE = Path(__file__).parent.parent / "backends" / "cuda" / "include"
"""The device library: the folder that generated sources include <mpk/...> from."""

USES_NVSHMEM = "#define MPK_NVSHMEM"
"""A line of a generated source that may reach far ranks (include/mpk/nvshmem.cuh)."""

_NAME = "/mpkir/kernel.cu"
"""What line tables call a source, wherever it is compiled."""

_ARCH = re.compile(r"sm_(\d{2,3}[af]?)")
_INSTALL = "install the CUDA toolkit (nvcc) or `pip install nvidia-cuda-nvrtc cuda-bindings`"


def build_cuda(source: str, arch: str, include: Sequence[Path] = ()) -> bytes:
    """Compile a generated kernel for `arch` ("sm_90a", "sm_80") and return the cubin: the same
    bytes each time, as long as the library's headers are where and as old as they were.

    `include`: directories of headers beside the device library.
    The result is kept under $MPKIR_CACHE (default ~/.cache/mpkir), named by a hash of the source,
    the device libraries, the compiler's version and the architecture. Raises MpkirError if there is
    no compiler, if it does not know the architecture, or if it refuses the source; of a source that
    says so (`uses_nvshmem`) if NVSHMEM or nvcc is not installed.
    """
    match = _ARCH.fullmatch(arch)
    if match is None:
        raise MpkirError(f"{arch!r} is no GPU architecture", hint='write it like "sm_90a"')
    version, compile_source = _linker() if uses_nvshmem(source) else _compiler()
    source = f'#line 1 "{_NAME}"\n{source}'
    key = hashlib.sha256()
    folders = (INCLUDE, *include)
    for part in (version, arch, source, _library_text(folders)):
        key.update(part.encode())
        key.update(b"\0")
    cached = _cache_folder() / f"{key.hexdigest()[:32]}.cubin"
    if cached.is_file():
        return cached.read_bytes()
    binary = compile_source(source, match[1], folders)
    _write_whole(cached, binary)
    return binary


def uses_nvshmem(source: str) -> bool:
    """Whether a generated source needs NVSHMEM's device library."""
    return f"\n{USES_NVSHMEM}\n" in f"\n{source}"


def _cache_folder() -> Path:
    given = os.environ.get("MPKIR_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "mpkir"


def _write_whole(path: Path, binary: bytes) -> None:
    """Write so that nobody ever sees half a file; a folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(binary)
        Path(file.name).replace(path)
    except OSError:
        return


def _library_text(folders: Sequence[Path]) -> str:
    headers = [path for folder in folders for path in sorted(folder.rglob("*.cuh"))]
    return "\0".join(f"{path.name}\0{path.read_text()}" for path in headers)


def _compiler() -> tuple[str, Callable[[str, str, Sequence[Path]], bytes]]:
    """The compiler's version and a function (source, number of the architecture, include
    directories) -> cubin."""
    nvcc = find_nvcc()
    if nvcc is not None:
        return _nvcc_version(nvcc), partial(_with_nvcc, nvcc)
    return _nvrtc_version(), _with_nvrtc


def _linker() -> tuple[str, Callable[[str, str, Sequence[Path]], bytes]]:
    """The same for sources that are linked with NVSHMEM's device library."""
    package = package_folder()
    nvcc = find_nvcc()
    if nvcc is None:
        raise MpkirError(
            "a program for hosts that a network connects is linked with NVSHMEM, which takes nvcc",
            hint="install the CUDA toolkit",
        )
    version = f"{_nvcc_version(nvcc)}\0{version_of(package)}"
    return version, partial(_linked_with_nvcc, nvcc, package)


def find_nvcc() -> str | None:
    """The path of nvcc: on PATH, or in $CUDA_HOME or /usr/local/cuda."""
    found = shutil.which("nvcc")
    if found is not None:
        return found
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return str(home) if home.is_file() else None


@cache
def _nvcc_version(nvcc: str) -> str:
    try:
        result = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MpkirError(f"{nvcc} does not run: {error}", hint=_INSTALL) from error
    return result.stdout


def _with_nvcc(nvcc: str, source: str, number: str, folders: Sequence[Path]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mpkir-") as name:
        cubin = Path(name) / "kernel.cubin"
        _run_nvcc(nvcc, number, *_compiling(folders, cubin), source=source)
        return cubin.read_bytes()


def _linked_with_nvcc(
    nvcc: str, package: Path, source: str, number: str, folders: Sequence[Path]
) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mpkir-") as name:
        cubin, linked = Path(name) / "kernel.cubin", Path(name) / "linked.cubin"
        compiling = _compiling((*folders, package / HEADERS), cubin)
        _run_nvcc(nvcc, number, "-rdc=true", *compiling, source=source)
        parts = (str(cubin), str(package / DEVICE_LIBRARY))
        _run_nvcc(nvcc, number, "-dlink", "-cubin", "-o", str(linked), *parts)
        return linked.read_bytes()


def _compiling(folders: Sequence[Path], cubin: Path) -> tuple[str, ...]:
    """What makes a cubin of a source from a pipe: of a file, its path and time would be in it."""
    files = ("-x", "cu", "-o", str(cubin), "/dev/stdin")
    return ("-std=c++17", *(f"-I{each}" for each in folders), "-lineinfo", "-cubin", *files)


def _run_nvcc(nvcc: str, number: str, *options: str, source: str = "") -> None:
    command = [nvcc, f"-gencode=arch=compute_{number},code=sm_{number}", *options]
    result = subprocess.run(command, input=source, capture_output=True, text=True)
    if result.returncode != 0:
        _refused("nvcc", number, result.stderr)


def _refused(compiler: str, number: str, log: str) -> None:
    errors = [line.strip() for line in log.splitlines() if "error" in line.lower()]
    raise MpkirError(
        f"{compiler} does not compile the kernel for sm_{number}: "
        + (" | ".join(errors[:3]) or log.strip()[-500:] or "no message"),
        hint="update the compiler if it is older than the GPU, else report this with the source",
    )


def _nvrtc_version() -> str:
    try:
        from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

        status, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise MpkirError("there is no CUDA compiler on this machine", hint=_INSTALL) from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise MpkirError(f"NVRTC does not start: {status.name}", hint=_INSTALL)
    return f"NVRTC {major}.{minor}"


def _with_nvrtc(source: str, number: str, folders: Sequence[Path]) -> bytes:
    from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

    ok = nvrtc.nvrtcResult.NVRTC_SUCCESS
    status, program = nvrtc.nvrtcCreateProgram(source.encode(), _NAME.encode(), 0, [], [])
    if status != ok:
        raise MpkirError(f"NVRTC does not take the kernel: {status.name}", hint=_INSTALL)
    try:
        options = [
            f"--gpu-architecture=sm_{number}".encode(),
            b"--std=c++17",
            b"-lineinfo",
            b"-default-device",  # constexpr functions without an annotation are for both sides
            *(f"-I{folder}".encode() for folder in folders),
        ]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != ok:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            _refused("NVRTC", number, f"{log.decode(errors='replace')}\n{status.name}")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        binary = b" " * size
        nvrtc.nvrtcGetCUBIN(program, binary)
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)
