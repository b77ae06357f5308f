"""The command line, as a user types it: in a process of its own, by exit code and streams."""

import json
import subprocess
import sys
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from transformers import BertConfig

from expandermask import Certificate, MaskPlan, certify, cli
from expandermask.graphs import catalog, complete_bipartite, hypercube, random_biregular
from expandermask.masks import save_mask


def run(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "expandermask.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


def test_help_reads_well():
    done = run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("mask", "certify", "plan", "demo", "Exit codes"))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json"])
def test_mask_then_certify(tmp_path, suffix):
    path = tmp_path / f"mask{suffix}"
    made = run("mask", 96, 16, 2, "--seed", 5, "-o", path)
    assert (made.returncode, made.stderr) == (0, "")
    assert "PROVED" in made.stdout
    checked = run("certify", path, "--json", "-o", tmp_path / "proof.json")
    assert checked.returncode == 0
    certificate = Certificate.from_json(checked.stdout)
    assert certificate == Certificate.from_json((tmp_path / "proof.json").read_text())
    assert (certificate.verdict, certificate.n1, certificate.d2) == ("PROVED", 96, 12)


def test_same_seed_same_mask(tmp_path):
    outputs = [run("mask", 96, 16, 2, "--seed", 5, "--json").stdout for _ in range(2)]
    assert outputs[0] == outputs[1] != ""


def test_refuted_exits_1(tmp_path):
    save_mask(tmp_path / "q7.npz", hypercube(7))
    done = run("certify", tmp_path / "q7.npz")
    assert done.returncode == 1
    assert "REFUTED" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mask", 768, 9, 2), "n2 = 8 or 12"),
        (("mask", 768, 8, 1), "stars"),
        (("mask", 8, 8, 9), "exceeds n2"),
        (("mask", 0, 8, 2), "at least 1"),
        (("mask", 8, 8, "two"), "integer"),
        (("mask", 96, 16, 2, "--seed", -1), "rng"),
        (("mask", 96, 16, 2, "-o", "mask.txt"), ".npz"),
        (("certify", "nowhere.npz"), "nowhere.npz"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_input_exits_2_and_says_why(arguments, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_is_not_biregular_exits_2(tmp_path):
    np.save(tmp_path / "triangle.npy", np.triu(np.ones((4, 4))))
    done = run("certify", tmp_path / "triangle.npy")
    assert done.returncode == 2
    assert "degrees" in done.stderr


def run_here(monkeypatch, *arguments):
    """The exit code in this process, where torch is loaded once."""
    monkeypatch.setattr(sys, "argv", ["expandermask", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_unproved_exits_3(monkeypatch, capsys):
    once = replace(catalog._CONSTRUCTIONS["random"], tries=1)
    monkeypatch.setitem(catalog._CONSTRUCTIONS, "random", once)
    assert run_here(monkeypatch, "mask", 600, 600, 2, "--method", "random", "--seed", 0) == 3
    assert "smallest sigma_2 seen is 2.0" in capsys.readouterr().err


def test_feasible_says_which_constructions_can():
    done = run("feasible", 60, 60, 4)
    assert done.returncode == 0
    assert "lps(3, 5)" in done.stdout
    answers = json.loads(run("feasible", 60, 60, 4, "--json").stdout)
    assert {o["method"]: o["works"] for o in answers["options"]}["geometry"] is False
    assert answers["auto"] == "design"
    refused = run("feasible", 7, 3, 2)
    assert refused.returncode == 2
    assert "the nearest that work" in refused.stderr


def test_mask_by_a_method():
    done = run("mask", 60, 60, 4, "--method", "lps")
    assert done.returncode == 0
    assert "made by lps, seed 0" in done.stdout
    turned = run("mask", 24, 64, 8, "--method", "geometry")
    assert "made by transpose of array_code" in turned.stdout
    refused = run("mask", 768, 8, 2, "--method", "lps")
    assert refused.returncode == 2
    assert "those that can: design, random" in refused.stderr


def test_plan(tmp_path, monkeypatch, capsys):
    BertConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192
    ).save_pretrained(tmp_path)
    targets = (tmp_path, "--targets", "query,value", "-r", 16)
    assert run_here(monkeypatch, "plan", *targets, "-o", tmp_path / "plan.json") == 0
    plan = MaskPlan.load(tmp_path / "plan.json")
    assert len(plan) == 4
    assert plan.num_values == 4 * (96 + 96) * 2
    assert "8 masks PROVED" in capsys.readouterr().out
    assert run_here(monkeypatch, "plan", *targets, "--seed", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdicts"] == ["PROVED"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-r", 17), "r = 12 or 16"),
        (("--targets", "nothing"), "query"),
        (("--targets", "("), "regular"),
    ],
)
def test_plans_that_cannot_be(tmp_path, monkeypatch, capsys, arguments, words):
    BertConfig(hidden_size=96, num_hidden_layers=1, num_attention_heads=4).save_pretrained(tmp_path)
    assert run_here(monkeypatch, "plan", tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_plan_for_no_model(tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, "plan", tmp_path / "missing") == 2
    assert "no usable transformers config" in capsys.readouterr().err


def test_an_unwritable_output_exits_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "mask.npz"
    assert run_here(monkeypatch, "mask", 12, 6, 3, "-o", output) == 2
    assert "error" in capsys.readouterr().err


def test_a_defect_does_not_exit_as_refuted(monkeypatch, capsys):
    monkeypatch.setattr(cli.build, "certify", lambda graph: 1 // 0)
    assert run_here(monkeypatch, "mask", 12, 6, 3) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_config_its_model_refuses_exits_2(tmp_path, monkeypatch, capsys):
    config = {"model_type": "bert", "hidden_size": 64, "num_attention_heads": 5}
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert run_here(monkeypatch, "plan", tmp_path) == 2
    assert "multiple" in capsys.readouterr().err


# -- the commands that judge --------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A proved mask, an irregular one, and a plan, as files."""
    save_mask(tmp_path / "proved.npz", random_biregular(96, 16, 2, rng=5))
    np.save(tmp_path / "irregular.npy", np.triu(np.ones((9, 7), dtype=int)))
    MaskPlan.for_shapes({"query": (96, 96)}, r=16, rng=0).save(tmp_path / "plan.json")
    MaskPlan.for_shapes({"query": (96, 96)}, r=16, rng=1).save(tmp_path / "other.json")
    return tmp_path


def test_certify_by_another_definition(saved, monkeypatch, capsys):
    file = saved / "complete.npz"
    save_mask(file, complete_bipartite(5, 2))
    assert run_here(monkeypatch, "certify", file) == 0
    assert run_here(monkeypatch, "certify", file, "--definition", "two-sided") == 1
    assert "sigma_min" in capsys.readouterr().out
    assert run_here(monkeypatch, "certify", file, "--definition", "within", "--eps", 0.5) == 0
    assert run_here(monkeypatch, "certify", file, "--definition", "within") == 2
    assert "eps" in capsys.readouterr().err
    assert run_here(monkeypatch, "certify", file, "--definition", "both") == 2


def test_certify_then_recheck(saved, monkeypatch, capsys):
    proof = saved / "proof.json"
    assert run_here(monkeypatch, "certify", saved / "proved.npz", "-o", proof) == 0
    assert run_here(monkeypatch, "recheck", proof, saved / "proved.npz") == 0
    assert "CONFIRMED" in capsys.readouterr().out
    save_mask(saved / "other.npz", random_biregular(96, 16, 2, rng=6))
    assert run_here(monkeypatch, "recheck", proof, saved / "other.npz") == 1
    assert "REJECTED: digest" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["proved.npz", "irregular.npy", "plan.json"])
def test_inspect(saved, monkeypatch, capsys, name):
    figure = saved / "figure.png"
    assert run_here(monkeypatch, "inspect", saved / name, "--figure", figure) == 0
    assert figure.read_bytes()[:4] == b"\x89PNG"
    text = capsys.readouterr().out
    assert ("NOT BIREGULAR" if name == "irregular.npy" else "PROVED") in text
    assert run_here(monkeypatch, "inspect", saved / name, "--json") == 0
    text = capsys.readouterr().out
    assert isinstance(json.loads(text), dict)
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("kind", ["edge", "vertex"])
def test_cheeger(saved, monkeypatch, capsys, kind):
    figure = saved / "cut.svg"
    file = saved / "irregular.npy"
    assert run_here(monkeypatch, "cheeger", file, "--kind", kind, "--figure", figure) == 0
    assert f"{kind} Cheeger constant" in capsys.readouterr().out
    assert "<svg" in figure.read_text()
    assert run_here(monkeypatch, "cheeger", file, "--kind", kind, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert run_here(monkeypatch, "cheeger", saved / "plan.json") == 2
    assert "holds 1 masks" in capsys.readouterr().err
    assert run_here(monkeypatch, "cheeger", file, "--kind", "face") == 2


def test_cheeger_with_a_seed(saved, monkeypatch, capsys):
    file = saved / "large.npz"
    save_mask(file, random_biregular(96, 64, 2, rng=0))
    seeded = ("cheeger", file, "--seed", 7)
    assert run_here(monkeypatch, *seeded, "--json") == 0
    first = capsys.readouterr().out
    assert json.loads(first)["seed"] == 7
    assert run_here(monkeypatch, *seeded, "--json") == 0
    assert capsys.readouterr().out == first
    assert run_here(monkeypatch, *seeded) == 0
    assert "seed" in capsys.readouterr().out
    drawn = set()
    for _ in range(2):
        assert run_here(monkeypatch, "cheeger", saved / "irregular.npy", "--json") == 0
        drawn.add(json.loads(capsys.readouterr().out)["seed"])
    assert len(drawn) == 2
    assert run_here(monkeypatch, "cheeger", file, "--seed", -1) == 2
    assert "rng" in capsys.readouterr().err


def test_compare(saved, monkeypatch, capsys):
    assert run_here(monkeypatch, "compare", saved / "plan.json", saved / "other.json") == 0
    assert "Jaccard" in capsys.readouterr().out
    file = saved / "proved.npz"
    assert run_here(monkeypatch, "compare", file, file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"]["jaccard"] == 1
    assert run_here(monkeypatch, "compare", file, saved / "irregular.npy") == 2
    assert run_here(monkeypatch, "compare", file, saved / "plan.json") == 2


def test_a_regular_graph_is_read_as_the_library_reads_it(saved, monkeypatch, capsys):
    """An adjacency matrix, of a bipartite graph and of one that is not; and the mask to recheck."""
    for name, graph in (("heawood", nx.heawood_graph()), ("petersen", nx.petersen_graph())):
        np.save(saved / f"{name}.npy", nx.to_numpy_array(graph, dtype=int))
        proof, mask = saved / "regular.json", saved / f"{name}.npz"
        arguments = ["--definition", "regular", "-o", proof, "--graph", mask]
        assert run_here(monkeypatch, "certify", saved / f"{name}.npy", *arguments) == 0
        written = Certificate.from_json(proof.read_text())
        assert written == certify(graph, definition="regular")
        assert run_here(monkeypatch, "recheck", proof, mask) == 0


def test_recheck_reads_recipes_and_speaks_json(saved, monkeypatch, capsys):
    proof = saved / "proof.json"
    assert run_here(monkeypatch, "mask", 60, 60, 4, "-o", saved / "made.json", "--seed", 0) == 0
    assert run_here(monkeypatch, "certify", saved / "made.json", "-o", proof) == 0
    capsys.readouterr()
    assert run_here(monkeypatch, "recheck", proof, saved / "made.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "CONFIRMED"
    assert run_here(monkeypatch, "recheck", proof, saved / "none.npz") == 2
    assert "none.npz" in capsys.readouterr().err


def test_weights_are_no_mask(saved, monkeypatch, capsys):
    np.save(saved / "weights.npy", np.full((4, 3), 0.5))
    for command in ("cheeger", "certify"):
        assert run_here(monkeypatch, command, saved / "weights.npy") == 2
        assert "weights != 0" in capsys.readouterr().err


def test_no_bars_off_a_terminal(saved):
    done = run("inspect", saved / "plan.json")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_kind_of_figure(saved, monkeypatch, capsys):
    assert run_here(monkeypatch, "cheeger", saved / "irregular.npy", "--figure", "cut.xyz") == 2
    assert "'cut.xyz'" in capsys.readouterr().err
