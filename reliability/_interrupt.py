"""Calls that change a disk, counted, so that a process can die or fail at each one in turn.

Counted are the calls through which `expandermask.files.replacing` and those who write inside it
reach the disk: making the temporary file, opening it, every write (of which half is done first),
closing, fsync, chmod, rename and unlink.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import tempfile
from collections.abc import Callable
from typing import Any

SYSTEM = ("close", "fsync", "chmod", "replace", "unlink")


class Interrupter:
    """Counts calls; at the one numbered ``at`` it kills the process, or the disk is full."""

    def __init__(self, at: int, *, kill: bool) -> None:
        self.at = at
        self.kill = kill
        self.calls: list[str] = []

    def reached(self, name: str) -> None:
        """Note a call, and end here if it is the one."""
        self.calls.append(name)
        if len(self.calls) == self.at:
            self.strike()

    def strike(self) -> None:
        """Die, or raise as a full disk does."""
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        """Put the counter in the place of every such call; for a process that is thrown away."""
        for name in SYSTEM:
            setattr(os, name, self._counted(name, getattr(os, name)))
        tempfile.mkstemp = self._counted("mkstemp", tempfile.mkstemp)
        kept = io.open

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return kept(file, mode, *rest, **options)
            self.reached("open")
            return Stream(kept(file, mode, *rest, **options), self)

        io.open = builtins.open = opened

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.reached(name)
            return call(*arguments, **options)

        return counted


class Stream:
    """A file open for writing whose writes and closing are counted."""

    def __init__(self, stream: Any, interrupter: Interrupter) -> None:
        self._stream = stream
        self._interrupter = interrupter

    def write(self, data: Any) -> Any:
        """Write; if this is the call to end at, half of the data reach the file first."""
        if len(self._interrupter.calls) + 1 == self._interrupter.at:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
        self._interrupter.reached("write")
        return self._stream.write(data)

    def close(self) -> None:
        """Close, once."""
        if not self._stream.closed:
            try:
                self._interrupter.reached("close of the file")
            finally:
                self._stream.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
