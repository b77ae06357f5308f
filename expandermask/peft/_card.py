"""The model card of a folder that PEFT saved: how to load it.

PEFT writes a card without a word of the import that it needs to load the folder again.
"""

from __future__ import annotations

from pathlib import Path

from expandermask.files import write_text

_HEADING = "## How to load this adapter"
_TEXT = f"""{_HEADING}

PEFT learns of the method XORA from expandermask. Without the import it stops with
`KeyError: 'XORA'`.

```python
import expandermask.peft
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder")
```

For programs without expandermask, `expandermask.peft.export_peft(model, folder)` writes the adapter
as a stock LoRA folder.
"""


def describe(folder: Path) -> None:
    """Put the section into the folder's ``README.md``, unless it is there already."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if _HEADING in text:
        return
    write_text(card, f"{text.rstrip()}\n\n{_TEXT}" if text.strip() else _TEXT)
