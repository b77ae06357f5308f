"""Slow, obvious versions of what the library computes; nothing here imports ``expandermask``."""
