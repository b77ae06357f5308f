"""Run exported programs where expandermask cannot be imported: `python without_library.py FOLDER`.

Reads ``inputs.npz`` of the folder and gives each input to each program there; writes the outputs to
``outputs.npz`` under "program/input".
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Program = Callable[[np.ndarray], np.ndarray]


def load(path: Path) -> Program:
    """A program, by what its name ends in."""
    if path.suffix == ".onnx":
        return onnx_program(path)
    if path.suffix == ".trace":
        module = torch.jit.load(path)
    elif path.suffix == ".aoti":
        module = torch._inductor.aoti_load_package(str(path))
    else:
        module = torch.export.load(path).module()

    def call(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return call


def onnx_program(path: Path) -> Program:
    """A session of ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def main(folder: Path) -> None:
    """Give every input to every program."""
    sys.modules["expandermask"] = None  # type: ignore[assignment]  # an import of it fails
    inputs = np.load(folder / "inputs.npz")
    outputs = {}
    for path in sorted(folder.glob("*-*")):
        program = load(path)
        # A program for one number of rows is called as "fixed-...".
        names = ["fixed"] if path.name.startswith("fixed") else inputs.files
        outputs |= {f"{path.name}/{name}": program(inputs[name]) for name in names}
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
