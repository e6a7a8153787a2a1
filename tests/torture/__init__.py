"""Torture: one module a fault, each held to a figure; `python -m tests.torture`."""
