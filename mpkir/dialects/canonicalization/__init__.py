"""Canonicalization patterns, a file for each family of operators; operators import them lazily."""
