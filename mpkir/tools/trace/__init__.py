"""`mpk trace`: steps that ran, by worker and time (docs/tracing.md)."""
