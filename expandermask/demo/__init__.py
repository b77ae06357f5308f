"""The main job, end to end: certified masks on a real pretrained transformer, trained and saved."""

import os

# OpenMP reads this once, when torch loads: idle threads then sleep rather than spin, which on a
# shared machine is the difference between two busy cores and two useful ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from expandermask.demo.result import ArmResult, DemoResult
from expandermask.demo.run import run_demo
from expandermask.demo.settings import FULL, QUICK, Settings

__all__ = ["FULL", "QUICK", "ArmResult", "DemoResult", "Settings", "run_demo"]
