"""Tests: a mirror of ``expandermask/``, with oracles, known answers and cases beside it."""
