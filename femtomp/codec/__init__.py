"""Formats: bytes in, values out, and back; no I/O, no clock, no threads."""
