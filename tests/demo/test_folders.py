"""A folder appears whole or not at all."""

import pytest

from expandermask.demo.folders import replacing_folder


def test_the_new_folder_replaces_the_old_one(tmp_path):
    target = tmp_path / "deep" / "adapter"
    for content in ("old", "new"):
        with replacing_folder(target) as folder:
            (folder / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in target.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, existing):
    target = tmp_path / "adapter"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")

    def interrupted():
        with replacing_folder(target) as folder:
            (folder / "half").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == (
        ["adapter", "adapter/old"] if existing else []
    )
