"""Gated MLPs with a squared ReLU, as an operator that mpkir compiles for CPU and GPU."""
