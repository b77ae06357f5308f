"""The memory that reading an adapter file takes, beside the size of the file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _adapters import WEIGHTS, placed
from torch import nn

from expandermask.adapters import AdapterConfig, attach, save_adapter

READ = """
import os, re, sys
from expandermask.adapters.files.stored import open_adapter
from expandermask.errors import ExpanderMaskError
size = os.path.getsize(sys.argv[1])
with open(sys.argv[2], "rb", buffering=0) as small:  # so that everything is imported and compiled
    open_adapter(small, os.path.getsize(sys.argv[2]), "small").read()
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = memory("VmRSS")
with open(sys.argv[1], "rb", buffering=0) as stream:
    try:
        found = open_adapter(stream, size, "large").read()
    except ExpanderMaskError as error:
        pass
print((memory("VmHWM") - before) * 1024)
"""


def large_files(folder: Path) -> dict[str, Path]:
    """A large adapter, the same altered in its last byte, and headers made to fill memory."""
    size = 2**27
    big = nn.ModuleDict({"fc": nn.Linear(64, 64), "head": nn.Linear(2**12, size // 2**14)})
    attach(big, AdapterConfig(r=16, target_modules="fc", modules_to_save=["head"]), rng=0)
    save_adapter(big, folder / "whole")
    whole = folder / "whole" / WEIGHTS
    files = {"an adapter": whole, "one byte altered": folder / "altered"}
    data = bytearray(whole.read_bytes())
    data[-1] ^= 1
    files["one byte altered"].write_bytes(data)
    del data, big
    for name, unit in (
        ("lists", b"[],"),
        ("text", b"x"),
        ("names", b'"a":0,'),
        ("escape", b"\\\\u0"),
    ):
        fill = unit * (2**26 // len(unit))
        quote = b'"' if name in ("text", "escape") else b""
        text = b'{"__metadata__":' + quote + fill + quote + b"}"
        files[f"a header of {name}"] = folder / name
        files[f"a header of {name}"].write_bytes(len(text).to_bytes(8, "little") + text)
    text = b'{"__metadata__":{"format":"pt","expandermask":"' + b"x" * 2**26 + b'"}}'
    files["half a header"] = folder / "half"
    rest = bytes(2**26)
    files["half a header"].write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return files


def memory(small_file: bytes) -> dict[str, float]:
    """The peak that reading each large file adds, over the size of the file; on Linux only."""
    if not Path("/proc/self/status").exists():
        return {}
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        small = placed(Path(folder) / "small", small_file) / WEIGHTS
        for name, path in large_files(Path(folder)).items():
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path), str(small)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
            ratios[name] = round(int(done.stdout) / path.stat().st_size, 3)
    return ratios
