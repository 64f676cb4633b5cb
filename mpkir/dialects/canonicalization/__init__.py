"""Canonicalization patterns, one file for each family of operators; operators import them when asked."""
