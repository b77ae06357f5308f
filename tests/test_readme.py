"""The README's adapter example runs as printed, on the real pretrained model."""

import re
from pathlib import Path

from expandermask.demo.model import model_source

README = Path(__file__).parent.parent / "README.md"


def test_the_adapter_example_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    (code,) = [block for block in blocks if "from_pretrained" in block]
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"MODEL"', repr(model_source(None))), {})
    assert {p.name for p in tmp_path.iterdir()} == {"my-adapter", "my-lora"}
    assert "37 modules, r=64, left_degree=2" in capsys.readouterr().out
