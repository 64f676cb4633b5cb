"""A small program by hand: its table, its kernel in C, its artifact. The tests damage copies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mpkir.runtime.artifact import Artifact, write_artifact
from mpkir.runtime.host import cpu_arch, cpu_features
from mpkir.runtime.manifest import Buffer, Manifest, Signature, Target
from mpkir.runtime.table import Table, TableNames, build_table

KERNEL = """\
struct Task { int family, index, wait_event, wait_arrivals, wait_lag, signal_event,
                  signal_amount, reserved; };
struct Family { int body, grid_size, stream_rows, stream_weights; int operand[12]; };
struct Control { int stop_at, fault, fault_worker, fault_task, fault_event;
                 unsigned fault_seen, fault_wanted; int reserved; };
struct LaunchArgs {
  void* const* buffers; const struct Task* tasks; const int* workers;
  const struct Family* families; unsigned* counters; struct Control* control;
  long long position; int steps; unsigned epoch; long long watchdog;
};
int mpk_workers(void) { return 2; }
/* y = x * w, then z = z + scale * y + position; one thread plays both workers. */
int mpk_run(const struct LaunchArgs* args) {
  const float *x = args->buffers[0], *w = args->buffers[1], *scale = args->buffers[2];
  float *y = args->buffers[3], *z = args->buffers[4];
  for (int step = 0; step < args->steps && step < args->control->stop_at; ++step) {
    for (int i = 0; i < 4; ++i) y[i] = x[i] * w[i];
    for (int i = 0; i < 4; ++i) z[i] += scale[0] * y[i] + (float)(args->position + step);
    args->counters[0] += 2;
    args->counters[1] += 1;
  }
  return 0;
}
"""


@pytest.fixture
def table() -> Table:
    """Two workers make y in two tasks; then one of them makes z."""
    return build_table(
        worker_tasks=[
            [(0, 0, 1, 1, 1, 0, 1, 0), (1, 0, 0, 2, 0, 1, 1, 0)],
            [(0, 1, 1, 1, 1, 0, 1, 0)],
        ],
        families=[(0, 2, 0, 0, 0, 1, 3), (1, 1, 16, 2, 3, 2, 4)],
        events=[2, 1],
        names=TableNames(
            buffers=("x", "w", "scale", "y", "z"),
            bodies=("multiply", "accumulate"),
            families=("first", "second"),
            events=("e0", "done"),
        ),
    )


@pytest.fixture
def manifest() -> Manifest:
    """z is a state that starts at -1, so that steps can be told apart."""
    return Manifest(
        target=Target("cpu", "cpu", cpu_arch(), workers=2, features=tuple(sorted(cpu_features()))),
        buffers=(
            Buffer("x", "input", "float32", (4,)),
            Buffer("w", "weight", "float32", (4,), source="layer.weight"),
            Buffer("scale", "constant", "float32", (1,), source="scale"),
            Buffer("y", "scratch", "float32", (4,)),
            Buffer("z", "state", "float32", (4,), initial=-1),
        ),
        bodies=("multiply", "accumulate"),
        families=("first", "second"),
        events=("e0", "done"),
        source="kernel.c",
        binary="kernel.so",
        signature=Signature(inputs=("x",), outputs=("z",)),
        info={"step_bytes": 16},
    )


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernel as a shared object."""
    compiler = shutil.which("cc")
    assert compiler, "the tests need a C compiler"
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.c").write_text(KERNEL)
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", "kernel.so", "kernel.c"],
        cwd=folder,
        check=True,
    )
    return (folder / "kernel.so").read_bytes()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.tensor([1.0, 2.0, 3.0, 4.0])}


@pytest.fixture
def artifact(
    tmp_path: Path,
    manifest: Manifest,
    table: Table,
    binary: bytes,
    weights: dict[str, torch.Tensor],
) -> Artifact:
    """A whole artifact with its weights inside."""
    return write_artifact(
        tmp_path / "artifact",
        manifest,
        table,
        source=KERNEL,
        binary=binary,
        constants={"scale": torch.tensor([10.0])},
        weights=weights,
    )
