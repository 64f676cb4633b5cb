"""Runs a program with NumPy at each level: the oracle for passes and code generators."""

from mpkir.backends.interpreter import operators as operators
