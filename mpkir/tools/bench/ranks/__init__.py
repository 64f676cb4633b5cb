"""Timing a decode step on several ranks beside one, beside itself alone, and beside PyTorch."""
