"""Patterns that recognise a model author's operators in imported ones; one family in each file.

None of them looks at a name: what a subgraph computes decides.
"""
