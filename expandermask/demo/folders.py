"""Folders that appear whole or not at all, as `expandermask.files.replacing` does for files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill; put in its place once the body is through.

    If the body raises, an interrupt included, whatever was at ``path`` stays. Between moving an old
    folder away and the new one in there is an instant with neither: a rename cannot replace a
    folder that is not empty.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    fresh = work / "new"
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            os.replace(target, work / "old")
        os.replace(fresh, target)
    finally:
        shutil.rmtree(work)
