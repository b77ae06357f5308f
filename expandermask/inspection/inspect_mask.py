"""inspect_mask(): the same questions of a mask from anywhere.

Of one mask it gives a `MaskReport`: degrees, dead rows and columns, components, bridges,
duplicates, signs of tiling and cropping, the spectral gap, and where the mask is biregular its
certificate. Of many (a plan, a mapping, a file or folder of tensors) it gives a `CheckpointReport`.
Nothing is read by unpickling, and files are read one tensor at a time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from expandermask.inspection.checkpoint_report import CheckpointReport, inspect_many
from expandermask.inspection.checkpoints import open_masks
from expandermask.inspection.mask_report import MaskReport
from expandermask.inspection.measure import report_on
from expandermask.inspection.supports import support_of


def inspect_mask(x: Any, *, progress: bool = False) -> MaskReport | CheckpointReport:
    """Report what is true of a mask, or of every mask in a plan, mapping, file or folder.

    The mask of a weight matrix is its support: the entries that are not zero.

    Parameters
    ----------
    x : array, tensor, scipy.sparse matrix, graph, mapping or path
        * One mask: a 2-D array or torch tensor of any real dtype, a scipy.sparse matrix (stored
          zeros are no entries), a networkx bipartite graph, a `BiregularGraph` or `BipartiteGraph`.
        * Many: a `MaskPlan`, or a mapping from names to masks or to pairs ``(a, b)`` of LoRA's
          orientation, A of shape (r, k) and B of shape (d, r). A state dict will do: what is not
          2-D is skipped, and ``lora_A`` and ``lora_B`` of one module are paired by their names.
        * A path: a mask (.npy, .npz, .json), a plan (.json), a .safetensors file, or a folder with
          an adapter of this library, a PEFT adapter or a transformers checkpoint, in shards or not.
    progress : bool
        Show a progress bar over the masks of a collection.

    Returns
    -------
    MaskReport or CheckpointReport
        The second, a mapping from names to `MaskReport`, for what can hold many masks: everything
        but a single mask and a file of one.

    Raises
    ------
    InvalidInputError
        ``x`` is no mask: not 2-D, empty, not real numbers, or with NaN or an infinity (the message
        says where). In a collection such tensors are reported instead, and the others inspected.
    TooLargeError
        The scans, 80 bytes for each row and column, a dense mask's entries, or an array of a .npz
        do not fit in memory.
    FileFormatError
        A file is truncated, altered or foreign, a shard is missing, or its name leads elsewhere.

    Notes
    -----
    O(edges) but for the spectrum: one `certify` for a biregular mask, else a symmetric eigenvalue
    problem of the smaller side or, above 128 vertices, some hundred products with the mask. In a
    collection equal masks are certified once. Tensors in .safetensors and .npy files are read some
    rows at a time, the arrays of a .npz whole, one after the other; held are the places of their
    entries or of their zeros, the fewer of them.

    Examples
    --------
    >>> import numpy as np, expandermask as xm
    >>> report = xm.inspect_mask(xm.generate_ramanujan_mask(768, 8, 2, rng=0))
    >>> report.verdict, report.components, report.left.dead
    ('PROVED', 1, 0)
    >>> tiled = xm.inspect_mask(np.tile(np.eye(4)[:, :3], (3, 2))[:10])
    >>> tiled.verdict, tiled.left.dead
    ('NOT BIREGULAR', 2)
    >>> for symptom in tiled.symptoms:
    ...     print(symptom)
    the rows repeat with period 4: 2 copies and 2 of the 4 rows of another
    the columns repeat with period 3: 2 copies
    """
    if isinstance(x, str | os.PathLike):
        found = open_masks(x)
        if isinstance(found, Mapping):
            return inspect_many(found, source=os.fspath(x), progress=progress)
        return report_on(support_of(found, os.path.basename(x)))
    if isinstance(x, Mapping) and not hasattr(x, "tocsr"):  # scipy's DOK matrices are mappings
        return inspect_many(x, source=type(x).__name__, progress=progress)
    return report_on(support_of(x))
