"""Settings every test shares: offline, and property-based tests that repeat exactly.

`make test-slow` gives ``--hypothesis-profile=random`` instead, so that each run tries new examples.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when a thread pool is first loaded

import numpy as np
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("random", settings.get_profile("deterministic"), derandomize=False)
settings.load_profile("deterministic")

if os.environ.get("NUMBA_DISABLE_JIT") == "1":
    # Without the compiler the kernels' 64-bit products wrap in numpy scalars, which warn of it.
    np.seterr(over="ignore")
