"""Folders that an enemy might publish as an adapter: code to import, addresses, paths, pickles."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from _adapters import WEIGHTS
from _mutants import Mutants, seal, value_changed

CONFIG = "adapter_config.json"
CODE = (
    *("os.system", "subprocess.Popen", "antigravity", "this", "my_model.Trap", "builtins.exec"),
    *("__main__.x", "posixpath.join", "ctypes.CDLL", "socket.socket", "pip.main", "trap"),
)
PLACES = (
    *("../../../etc/passwd", "/etc/passwd", "/proc/self/environ", "~/.ssh/id_rsa", "/dev/zero"),
    *(
        "..",
        "../secret.json",
        "sub/../../secret.json",
        "\\\\host\\share",
        "C:\\secret",
        "file:///etc",
    ),
    *("http://127.0.0.1:9/x", "https://example.invalid/x.safetensors", "ftp://127.0.0.1/x"),
    *("hf://evil/adapter", "git+ssh://evil", "s3://evil/x", "data:text/plain,x", "a\0b", "$HOME"),
)
HUGE = (10**9, 2**31 - 1, 2**63, 10**30, 1e308, -1, 2**64)
PEFT = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["first", "second"],
    "bias": "none",
    "task_type": None,
    "inference_mode": True,
    "modules_to_save": None,
}
FIELDS = (
    *("auto_mapping", "base_model_name_or_path", "revision", "auto_map", "custom_code", "code"),
    *("trust_remote_code", "megatron_core", "parent_library", "base_model_class", "loftq_config"),
    *("corda_config", "eva_config", "weights", "weights_name", "subfolder", "cache_dir", "url"),
    *("plugin", "entry_point", "runtime_config", "init_lora_weights", "layer_replication"),
)


class Trap:
    """To unpickle it is to make a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def hostile_value(random: Random) -> Any:
    """A value that asks for code, an address, a path or memory."""
    kind = random.randrange(6)
    if kind == 0:
        return random.choice(CODE)
    if kind == 1:
        return random.choice(PLACES)
    if kind == 2:
        return random.choice(HUGE)
    if kind == 3:
        module, _, name = random.choice(CODE).rpartition(".")
        return {"parent_library": module, "base_model_class": name}
    if kind == 4:
        return {"AutoModel": f"{random.choice(PLACES)}--modeling.{random.choice(CODE)}"}
    return [random.choice(PLACES), random.choice(CODE), {"__reduce__": random.choice(CODE)}]


def peft_config(random: Random) -> str:
    """PEFT's config with a few hostile fields, known and unknown."""
    config = dict(PEFT)
    for _ in range(random.randint(1, 4)):
        names = (*FIELDS, *PEFT) if random.random() < 0.8 else (*PLACES, *CODE)
        config[random.choice(names)] = hostile_value(random)
    return json.dumps(config)


class Hostile:
    """Hostile folders, made of one sound adapter."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.mutants = Mutants(data)

    def fill(self, folder: Path, random: Random) -> str:
        """Make an empty folder hostile; the name of what was done to it."""
        kind = random.choice(KINDS)
        kind(self, folder, random)
        return kind.__name__

    def hostile_document(self, folder: Path, random: Random) -> None:
        """A sealed document with hostile values in config or plan, at any depth."""
        body = json.loads(json.dumps(self.mutants.document))
        target = body
        path = random.choice(
            (
                *(("config",), ("plan",), ("sha256",), ("plan", "modules")),
                *(("plan", "modules", "first", "A"), ("plan", "modules", "first", "A", "recipe")),
            )
        )
        for name in path:
            target = target[name]
        for _ in range(random.randint(1, 3)):
            extra = (*FIELDS, *CODE, *PLACES) if random.random() < 0.4 else tuple(target)
            target[random.choice(extra)] = hostile_value(random)
        self._write(folder, seal(body, self.mutants.parsed))

    def hostile_names(self, folder: Path, random: Random) -> None:
        """Tensors and modules that are called like paths or code, sealed."""
        old = random.choice(("first", "second", "head", "first.A", "first.rank_gate"))
        new = random.choice((*PLACES, *CODE))
        text = json.dumps(self.mutants.parsed).replace(
            old, json.dumps(new)[1:-1].replace("\\", "\\\\")
        )
        document = json.dumps(self.mutants.document).replace(old, json.dumps(new)[1:-1])
        try:
            header, body = json.loads(text), json.loads(document)
        except ValueError:
            header, body = self.mutants.parsed, {**self.mutants.document, new: 0}
        self._write(folder, seal(body, header), header)

    def hostile_header(self, folder: Path, random: Random) -> None:
        """Hostile metadata or fields of tensors."""
        header = json.loads(json.dumps(self.mutants.parsed))
        target = header[random.choice(list(header))] if random.random() < 0.7 else header
        names = (*FIELDS, *target)
        target[random.choice(names)] = hostile_value(random)
        self._write(folder, self.mutants.document, header)

    def peft_folder(self, folder: Path, random: Random) -> None:
        """PEFT's config, hostile, beside the adapter, PEFT's tensors or nothing."""
        (folder / CONFIG).write_text(peft_config(random), encoding="utf-8")
        kind = random.randrange(4)
        if kind == 0:
            (folder / WEIGHTS).write_bytes(self.data)
        elif kind == 1:
            (folder / WEIGHTS).write_bytes(stock_tensors(random))
        elif kind == 2:
            write_pickle(folder / "adapter_model.bin", folder)

    def a_pickle(self, folder: Path, random: Random) -> None:
        """A pickle in the adapter's place, or under another name beside it."""
        names = (*("adapter_model.bin", "optimizer.pt", "x.pkl", "a.ckpt", "pytorch_model.bin"),)
        name = random.choice((WEIGHTS, CONFIG, *names))
        if name != WEIGHTS and random.random() < 0.8:
            (folder / WEIGHTS).write_bytes(self.data)
        write_pickle(folder / name, folder)

    def a_link(self, folder: Path, random: Random) -> None:
        """A link, in the adapter's place or the config's, to somewhere else."""
        aims = ("/etc/passwd", "/dev/zero", "/proc/self/mem", "../outside", WEIGHTS, ".", "/", "..")
        name = random.choice((WEIGHTS, WEIGHTS, CONFIG))
        (folder.parent / "outside").write_bytes(self.data)
        (folder / name).symlink_to(random.choice(aims))
        if name == CONFIG:
            (folder / WEIGHTS).write_bytes(self.data)

    def no_file(self, folder: Path, random: Random) -> None:
        """A pipe, a folder or nothing in the adapter's place; code beside it."""
        kind = random.randrange(3)
        if kind == 0:
            os.mkfifo(folder / WEIGHTS)
        elif kind == 1:
            (folder / WEIGHTS).mkdir()
        for name in random.sample(("conftest.py", "modeling.py", "__init__.py", "setup.py"), 2):
            (folder / name).write_text(f"import os; os.mkdir({str(folder / 'sprung')!r})\n")

    def huge_file(self, folder: Path, random: Random) -> None:
        """A file that is long and has no data, or says that it is."""
        header = json.loads(json.dumps(self.mutants.parsed))
        size = random.choice((2**40, 2**45, 10**15))
        header["head.weight"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
        self._write(folder, seal(self.mutants.document, header), header)
        if random.random() < 0.5:
            os.truncate(folder / WEIGHTS, 2**40)

    def any_change(self, folder: Path, random: Random) -> None:
        """Any change of structure, sealed."""
        body = dict(self.mutants.document)
        name = random.choice(("plan", "config", "sha256"))
        body[name] = value_changed(body[name], random)
        self._write(folder, seal(body, self.mutants.parsed))

    def _write(self, folder: Path, document: Any, header: Any = None) -> None:
        (folder / WEIGHTS).write_bytes(
            self.mutants.with_parts(self.mutants.parsed if header is None else header, document)
        )


def stock_tensors(random: Random) -> bytes:
    """A safetensors file as PEFT's, some of its names hostile."""
    header, end = {}, 0
    for name in ("first.lora_A.weight", "first.lora_B.weight", random.choice(PLACES)):
        header[f"base_model.model.{name}" if random.random() < 0.9 else name] = {
            "dtype": "F32",
            "shape": [4, 2],
            "data_offsets": [end, end + 32],
        }
        end += 32
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def write_pickle(path: Path, folder: Path) -> None:
    """A pickle that makes a folder when it is read."""
    path.write_bytes(pickle.dumps(Trap(folder / "sprung")))


KINDS: list[Callable[[Hostile, Path, Random], None]] = [
    *(Hostile.hostile_document, Hostile.hostile_names, Hostile.hostile_header),
    *(Hostile.peft_folder, Hostile.a_pickle, Hostile.a_link, Hostile.no_file),
    *(Hostile.huge_file, Hostile.any_change),
]
