"""Timing decode steps: what is measured, how it is checked first, and what is recorded."""

from mpkir.tools.bench.records import append_records, bytes_per_step, provenance, read_bandwidth

__all__ = ["append_records", "bytes_per_step", "provenance", "read_bandwidth"]
