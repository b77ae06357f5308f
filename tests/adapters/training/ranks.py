"""Two processes of one gloo group that run functions sent to them, and cannot hang a test.

They are started once for all tests: importing torch takes longer than any of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120
"""After this a collective fails, and a little later the processes are ended."""


class Ranks:
    """``run(function, *args)`` calls ``function(rank, *args)`` on every rank; their results."""

    def __init__(self, size: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            arguments = (rank, size, folder / "rendezvous", there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self.ends.append(here)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results by rank; an AssertionError with the traceback of the first rank that raised."""
        for end in self.ends:
            end.send((function, arguments))
        answers = [self._answer(rank) for rank in range(len(self.ends))]
        for rank, (failed, value) in enumerate(answers):
            assert not failed, f"rank {rank}:\n{value}"
        return [value for _, value in answers]

    def _answer(self, rank: int) -> tuple[bool, Any]:
        if not self.ends[rank].poll(2 * SECONDS):
            self.close()
            raise AssertionError(f"rank {rank} did not answer")
        answer: tuple[bool, Any] = self.ends[rank].recv()
        return answer

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.join()


def _serve(rank: int, size: int, rendezvous: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",  # the group below is there already, so nothing listens on it
    }
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SECONDS),
    )
    while True:
        function, arguments = end.recv()
        try:
            end.send((False, function(rank, *arguments)))
        except BaseException:
            end.send((True, traceback.format_exc()))
