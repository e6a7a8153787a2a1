"""Faults put into femtomp on purpose, each of which a named test must find."""
