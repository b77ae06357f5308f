"""The reliability figures at a small fraction of their counts: they run, count and can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_compiler import ROOT

FOLDER = ROOT / "reliability"


def run(results: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), "--results", str(results), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=results,
    )


def record(results: Path, script: str, *arguments: str) -> dict:
    done = run(results, script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((results / f"{script}.json").read_text())
    assert found["passed"]
    assert found["versions"]["expandermask"]
    return found


def test_agreement(tmp_path):
    found = record(tmp_path, "agreement", "--times", "0.001", "--jobs", "1")
    assert found["graphs"] == 1000
    assert set(found["disagreements"].values()) == {0}
    counts = found["counts"]
    assert counts["verdict: PROVED"] + counts["verdict: REFUTED"] == 1000
    assert min(counts["verdict: REFUTED"], counts["ties of disjoint cycles"]) > 10


def test_traps(tmp_path):
    found = record(tmp_path, "traps", "--times", "0.05", "--jobs", "1")
    assert set(found["wrong"].values()) == {0}
    assert found["on the bound"] >= 5
    truths = [
        sum(kind[truth] for kind in found["kinds"].values())
        for truth in ("PROVED", "REFUTED", "refused")
    ]
    assert min(truths) > 10


def test_files_fuzz(tmp_path):
    found = record(tmp_path, "files_fuzz", "--times", "0.002", "--jobs", "1", "--no-memory")
    assert found["mutants"] == 2100
    assert found["faults"] == 0
    outcomes = found["outcomes"]
    assert all(outcomes[name]["refused"] > 10 for name in outcomes)
    assert outcomes["adapter"]["same"] > 0  # a change of white space, say
    assert len(found["kinds"]["adapter"]) == 10


def test_hostile_configs(tmp_path):
    found = record(tmp_path, "hostile_configs", "--times", "0.002", "--jobs", "1")
    assert found["folders"] == 200
    assert set(found["seen"].values()) == {0}
    assert found["counts"]["load_adapter: refused"] > 100


@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_interrupted_saves(tmp_path):
    found = record(tmp_path, "interrupted_saves", "--times", "0.02", "--only", "plan")
    assert found["faults"] == 0
    assert found["counts"]["plan, killed, old"] > 10
    assert found["counts"]["plan, disk full, old"] > 10
    calls = found["calls of one save"]
    assert calls.index("fsync") < calls.index("replace") < len(calls) - 1


PEFT_TEST = """
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model


def adapted(kind, **options):
    model = torch.nn.Sequential(torch.nn.Linear(16, 16))
    return get_peft_model(model, kind(target_modules=["0"], **options))


@pytest.mark.parametrize("kind", [LoraConfig, IA3Config])
@pytest.mark.parametrize("options", [{}, {"r": 6}, {"use_dora": True}, {"alpha": 1}])
def test_forward(kind, options):
    assert adapted(kind, **options)(torch.ones(1, 16)).shape == (1, 16)


def test_starts_off_zero():
    model = adapted(LoraConfig, init_lora_weights=False)
    after = model(torch.ones(1, 16))
    with model.disable_adapter():
        assert not torch.allclose(after, model(torch.ones(1, 16)))


def test_name():
    assert LoraConfig.__name__ == "LoraConfig"


def test_skipped():
    if LoraConfig.__name__ != "LoraConfig":
        pytest.skip("another config")


def test_message():
    with pytest.raises(ValueError, match="should be a positive integer value but the value passed"):
        adapted(LoraConfig, r=0)
"""
PEFT_HELPERS = {
    "testing_utils": "def hub_online_once(): pass\ndef load_dataset_english_quotes(): pass\n",
    "test_custom_models": "class TestRequiresGrad:\n    def check_requires_grad(self): pass\n",
    "test_low_level_api": "from peft import inject_adapter_in_model, set_peft_model_state_dict\n",
}


def peft_tests(folder: Path, least_run: int = 1) -> tuple[int, dict]:
    """The record of a folder that has one file of tests."""
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import peft_tests\n"
        "peft_tests.NEEDED = ()\n"
        "peft_tests.FILES = ('test_config',)\n"
        f"peft_tests.LEAST_RUN = {least_run}\n"
        "sys.exit(peft_tests.main())\n"
    )
    command = [sys.executable, "-c", program, "--results", str(folder)]
    command += ["--work", str(folder / "work"), str(folder / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode < 2, done.stderr
    return done.returncode, json.loads((folder / "peft_tests.json").read_text())


@pytest.mark.slow
def test_peft_tests(tmp_path):
    """Every kind of outcome; passing alone is a success; what was passed is not to be lacking."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for name, text in PEFT_HELPERS.items():
        (tests / f"{name}.py").write_text(text)
    (tests / "test_config.py").write_text(PEFT_TEST)
    code, found = peft_tests(tmp_path)
    assert code == 1
    assert found["outcomes"] == {"failed": 3, "lacking": 1, "not run": 1, "passed": 3}
    assert found["failed for a message alone"] == 1
    cases = found["tests"]["test_config"]
    assert cases["test_forward"].keys() > {
        "passed, r 8 -> 8",
        "passed, r 6 -> 4",
        "lacking: use_dora",
    }
    assert list(cases["test_skipped"]) == ["failed: skipped with XoraConfig alone: another config"]

    text = PEFT_TEST.partition("def test_name")[0]
    (tests / "test_config.py").write_text(text)
    assert peft_tests(tmp_path)[0] == 0
    assert peft_tests(tmp_path, least_run=4)[0] == 1
    (tests / "test_config.py").write_text(text.replace("init_lora_weights=False", "use_dora=True"))
    code, found = peft_tests(tmp_path)
    assert code == 1
    assert found["passed before, lacking now"] == ["test_config::test_starts_off_zero[]"]


def test_peft_tests_says_what_it_needs(tmp_path):
    done = run(tmp_path, "peft_tests", str(tmp_path))
    assert done.returncode == 2
    assert "pip install" in done.stderr or "pip download" in done.stderr


def test_serving(tmp_path):
    """Every way of PEFT and transformers; the programs that are not given are said to be so."""
    found = record(tmp_path, "serving", "--only", "pruned ranks")
    assert found["verdicts"] == {
        "not tried": 10,
        "refused by the reader": 1,
        "refused when writing": 4,
        "right": 25,
    }
    assert found["readers"]["vLLM"] == "not tried"
    refused = [row for row in found["rows"] if row["verdict"] == "refused when writing"]
    assert {row["written by"] for row in refused} == {"attach, compact"}
    assert {row["if written all the same"].split(":")[0] for row in refused} == {
        "refused",
        "not tried",
    }


@pytest.mark.parametrize(
    ("lie", "verdict"),
    [
        ("lambda work, base, folder, host: serving.logits(serving.base(work, base))", "WRONG"),
        ("lambda *given: 1 / 0", "REFUSED BY THE READER"),
    ],
)
def test_serving_finds_a_reader_that_computes_something_else_or_stops(tmp_path, lie, verdict):
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import serving\n"
        f"serving.OURS = {{'PEFT': {lie}}}\n"
        f"sys.argv = ['x', '--results', {str(tmp_path)!r}, '--only', 'tied embeddings']\n"
        "sys.exit(serving.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "serving.json").read_text())
    assert not found["passed"]
    assert found["rows"][0]["verdict"] == verdict


@pytest.mark.slow
def test_resume(tmp_path):
    found = record(tmp_path, "resume", "--times", "0.1", "--jobs", "2")
    expected = {"kills": 2, "differing after step": []}
    assert found["resumed"] == {"Trainer": expected, "plain loop": expected}
    assert all(
        ranks["values"] > 1000 and not ranks["wrong"] for ranks in found["two ranks"].values()
    )


@pytest.mark.slow
def test_platforms(tmp_path):
    """All kernels and no compiler, with the numpy that is here."""
    found = record(tmp_path, "platforms", "--no-releases")
    assert found["same"] >= 4


LAX_READER = """
files_fuzz.memory = lambda data: {}
files_fuzz.adapter_content()
found = files_fuzz.read_adapter(files_fuzz.adapter_bytes())
found[2]["first.A"][0, 0] += 1
files_fuzz.read_adapter = lambda data: found
"""
IN_PLACE = """
write = lambda folder, k: (folder / "plan.json").write_text(interrupted_saves.PLANS[k].to_json())
subject = interrupted_saves.SUBJECTS["plan"]
interrupted_saves.SUBJECTS = {"plan": interrupted_saves.Subject("plan.json", write, subject.read)}
"""


def reader(act: str) -> str:
    """One more reader of hostile folders, that does something."""
    return f"hostile_configs.READERS['bad'] = lambda model, folder: ({act})"


@pytest.mark.parametrize(
    ("script", "lie"),
    [
        ("agreement", "agreement.xm.certify = lambda mask, **options: PROVED"),
        ("traps", "traps.answered = lambda trap: 'PROVED'"),
        ("files_fuzz", LAX_READER),
        (
            "files_fuzz",
            "files_fuzz.memory = lambda data: {}\nfiles_fuzz.xm.Certificate.from_json = dict",
        ),
        (
            "hostile_configs",
            reader("__import__('sys').modules.pop('colorsys', 0), __import__('colorsys')"),
        ),
        ("hostile_configs", reader("open('/dev/null').close()")),
        ("hostile_configs", reader("__import__('socket').socket().close()")),
        ("hostile_configs", reader("__import__('pickle').loads(b'cbuiltins\\nlist\\n.')")),
        ("interrupted_saves", IN_PLACE),
        pytest.param(
            "resume",
            "resume.killed_and_resumed = lambda kind, steps, step: 'other bits'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_library_is_found_out(tmp_path, script, lie):
    """The controls: with a certify that says PROVED to all, a reader that takes or does anything,
    a save that writes in place, the figure fails."""
    program = (
        "import sys, expandermask as xm\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        f"import {script}\n"
        "PROVED = xm.certify(xm.graphs.heawood())\n"
        f"{lie}\n"
        f"sys.argv = ['x', '--times', '0.001', '--jobs', '1', '--results', {str(tmp_path)!r}]\n"
        f"sys.exit({script}.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert not json.loads((tmp_path / f"{script}.json").read_text())["passed"]


def test_the_record_of_versions_is_of_what_is_declared(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import versions

    found = json.loads((FOLDER / "results" / "versions.json").read_text(encoding="utf-8"))
    assert found["declared"] == versions.declared()
    lowest = found["rows"]["lowest"]["packages"]
    for requirement in versions.lowest():
        name, _, version = requirement.partition("==")
        assert lowest[name.lower().replace("_", "-")].removesuffix("+cpu").startswith(version)
    assert {row["outcome"] for row in found["rows"].values()} == {"passed"}
