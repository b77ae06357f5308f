"""The whole demo at a tiny size on the real model: its artefacts, its proofs, and Ctrl-C."""

import json
import re
from dataclasses import replace

import peft
import pytest
import torch
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from expandermask import MaskPlan, certify
from expandermask.adapters import load_adapter
from expandermask.certificates import Certificate
from expandermask.demo import Settings, arms, run, run_demo
from expandermask.demo.arms import LORA, MASKED, PROBE, Materials
from expandermask.demo.checks import peft_difference, reloads_identically
from expandermask.demo.data import load_snippets
from expandermask.demo.model import encoder_linears, load_model, model_source
from expandermask.demo.training import logits
from expandermask.errors import InvalidInputError, MissingPackageError

TINY = Settings(train=64, test=32, epochs=1, batch_size=16)
FIRST = ["plan.json", "certificates.json", "spectra.png"]
ALL = [*FIRST, "adapter", "peft"]
# By hand: 6 layers of 4 weights 384 x 384 and 2 between 384 and 1536; 384 * 2 + 2 in the head.
WIDTHS = 6 * (4 * (384 + 384) + 2 * (384 + 1536))
HEAD = 770


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run: its folder, result and lines."""
    folder, lines = tmp_path_factory.mktemp("demo") / "out", []
    result = run_demo(folder, settings=TINY, progress=False, say=lines.append)
    return folder, result, lines


@pytest.fixture(scope="module")
def materials():
    parts = load_snippets(train=TINY.train, test=TINY.test)
    source = model_source(None)
    return Materials.load(source, parts["train"], parts["test"], TINY, seed=0, progress=False)


def hidden_files(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_every_artefact_is_there_and_nothing_else(finished):
    folder, result, lines = finished
    assert result.artefacts == ALL
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *FIRST,
        "adapter/adapter_model.safetensors",
        "peft/adapter_config.json",
        "peft/adapter_model.safetensors",
        "results.json",
        "report.md",
    }
    assert (folder / "spectra.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert json.loads((folder / "results.json").read_text()) == json.loads(
        json.dumps(result.to_dict())
    )
    assert not result.interrupted


def test_every_mask_is_proved_and_the_certificates_are_those_of_the_plan(finished):
    folder, result, _ = finished
    assert (result.masks.modules, result.masks.masks, result.masks.proved) == (36, 72, 72)
    plan = MaskPlan.load(folder / "plan.json")
    documents = json.loads((folder / "certificates.json").read_text())
    assert set(documents) == {name for name, _ in plan.graphs()}
    for name, graph in plan.graphs():
        proof = Certificate.from_json(json.dumps(documents[name]))
        assert proof.verdict == "PROVED"
        assert proof.is_about(graph)
        assert proof == certify(graph)
    assert result.masks.worst_to_bound <= 1 < result.masks.worst_ratio < 1.4


def test_the_arms_cost_what_the_shapes_say(finished):
    _, result, _ = finished
    assert list(result.arms) == [MASKED, PROBE, LORA]
    # Beside its values a masked adapter's file holds 72 recipes and hashes.
    for name, entries, besides in ((MASKED, 2, 40_000), (LORA, 64, 16_000)):
        arm, values = result.arms[name], entries * WIDTHS + HEAD
        counters = 4 * (72 + 2)
        assert arm.trainable_values == values
        assert arm.gradient_bytes == 4 * values
        assert arm.optimizer_bytes == 8 * values + counters
        assert 4 * values < arm.file_bytes < 4 * values + besides
    assert result.cost["masked"]["trainable_values"] * 32 == result.cost["lora"]["trainable_values"]
    assert all(0 <= arm.accuracy <= 100 for arm in result.arms.values())


def test_the_report_shows_every_figure(finished):
    folder, result, lines = finished
    for text in ((folder / "report.md").read_text(), "\n".join(lines)):
        for arm in result.arms.values():
            for figure in (f"{arm.accuracy:.1f}", f"{arm.file_bytes:,}", arm.tuned):
                assert figure in text
        assert "accuracies mean little" in text  # it is not the full size
        assert "PROVED" in text
    assert "(spectra.png)" in (folder / "report.md").read_text()


def test_the_reports_own_lines_reload_the_adapter(finished, materials):
    """And stock PEFT, which knows nothing of this library, computes the same from its folder."""
    folder, result, _ = finished
    code = re.search(r"```python\n(.*?)```", (folder / "report.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) == 5
    scope = {}
    exec(code, scope)
    ours = logits(scope["model"], materials.held_out)
    fresh = load_model(materials.source, seed=9)
    theirs = logits(peft.PeftModel.from_pretrained(fresh, folder / "peft"), materials.held_out)
    assert float((ours - theirs).abs().max()) <= 1e-5
    right = (theirs.argmax(1) == materials.held_out.labels).float().mean()
    assert 100 * float(right) == pytest.approx(result.arms[MASKED].accuracy)
    assert result.reload_identical is True
    assert result.peft_difference <= 1e-5


def test_the_checks_notice_other_logits(finished, materials):
    folder, _, _ = finished
    model = load_model(materials.source, seed=9)
    load_adapter(model, folder / "adapter")
    expected = logits(model, materials.held_out).clone()
    assert reloads_identically(materials, folder / "adapter", expected)
    expected[3, 1] = torch.nextafter(expected[3, 1], torch.tensor(9.0))
    assert not reloads_identically(materials, folder / "adapter", expected)
    expected[3, 1] += 0.5
    assert peft_difference(materials, folder / "peft", expected) == pytest.approx(0.5, abs=1e-5)


def test_an_interrupt_in_the_last_arm_keeps_everything_before_it(
    finished, tmp_path, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "dense_lora", interrupt)
    lines = []
    result = run_demo(tmp_path, settings=TINY, progress=False, say=lines.append)
    assert result.interrupted
    assert result.artefacts == ALL
    assert "Interrupted" in (tmp_path / "report.md").read_text()
    assert f"{LORA} not finished" in lines[-1]
    assert not hidden_files(tmp_path)
    load_adapter(load_model(model_source(None), seed=9), tmp_path / "adapter")
    # The same seed gave the same masks, values and accuracy as the run that was left alone.
    folder, other, _ = finished
    for name in ("plan.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert result.arms[MASKED].accuracy == other.arms[MASKED].accuracy
    assert capsys.readouterr().out == ""


def test_an_interrupt_while_writing_leaves_no_half_folder(tmp_path, monkeypatch):
    def half(model, folder):
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "export_peft", half)
    short = replace(TINY, train=16)
    result = run_demo(tmp_path, settings=short, progress=False, say=lambda _: None)
    assert result.interrupted
    assert result.artefacts == [*FIRST, "adapter"]
    assert not (tmp_path / "peft").exists()
    assert not hidden_files(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["interrupted"] is True


def test_an_interrupt_in_training_keeps_the_masks_and_an_earlier_adapter(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "train", interrupt)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "earlier").write_text("whole")
    result = run_demo(tmp_path, settings=TINY, progress=False, say=lambda _: None)
    assert result.interrupted
    assert result.artefacts == FIRST
    assert len(MaskPlan.load(tmp_path / "plan.json")) == 36
    assert (tmp_path / "adapter" / "earlier").read_text() == "whole"
    assert "earlier run" in (tmp_path / "report.md").read_text()


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(MissingPackageError, match=r"needs peft; run: pip install"):
        run_demo(tmp_path / "out", settings=TINY)
    assert not (tmp_path / "out").exists()


def test_models_the_demo_cannot_take(tmp_path):
    with pytest.raises(InvalidInputError, match="no-such-model"):
        run_demo(tmp_path / "out", settings=TINY, model=str(tmp_path / "no-such-model"))
    tiny = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16}
    GPT2Model(GPT2Config(**tiny)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InvalidInputError, match="random values in score, and"):
        load_model(str(tmp_path / "gpt2"), seed=0)
    tiny = {"n_layers": 1, "dim": 8, "n_heads": 2, "hidden_dim": 8, "vocab_size": 16}
    DistilBertModel(DistilBertConfig(**tiny)).save_pretrained(tmp_path / "distilbert")
    with pytest.raises(InvalidInputError, match="random values in classifier, pre_classifier, and"):
        load_model(str(tmp_path / "distilbert"), seed=0)


def test_another_model_it_can_take(tmp_path):
    tiny = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    config = RobertaConfig(**tiny, intermediate_size=16, vocab_size=16)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "roberta")
    model = load_model(str(tmp_path / "roberta"), seed=0)
    assert len(encoder_linears(model)) == 6
    assert all(".encoder.layer.0." in name for name in encoder_linears(model))


def test_the_encoder_has_36_linears_without_pooler_and_head():
    names = encoder_linears(load_model(model_source(None), seed=0))
    assert len(names) == 36
    assert all(".encoder.layer." in name for name in names)
