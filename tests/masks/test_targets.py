"""find_targets: PEFT's conventions for naming modules, and errors that list what there is."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from expandermask import MaskPlan
from expandermask.errors import AdapterError, InfeasibleShapeError, InvalidInputError
from expandermask.masks import find_targets
from expandermask.masks.targets import passed_over


def on_meta(build, config):
    with torch.device("meta"):
        return build(config)


@pytest.fixture(scope="module")
def bert():
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=50,
    )
    return on_meta(BertForSequenceClassification, config)


@pytest.fixture(scope="module")
def gpt2():
    return on_meta(GPT2LMHeadModel, GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=50))


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=50,
    )
    return on_meta(LlamaForCausalLM, config)


def test_all_linear_leaves_heads_alone(bert, gpt2, llama):
    found = find_targets(bert)
    assert len(found) == 2 * 6 + 1
    assert "classifier" not in found
    assert found["bert.encoder.layer.1.intermediate.dense"] == (128, 64)
    assert found["bert.encoder.layer.1.output.dense"] == (64, 128)
    assert "lm_head" not in find_targets(llama)
    assert len(find_targets(llama)) == 2 * 7
    assert "lm_head" not in find_targets(gpt2)


def test_conv1d_is_output_by_input(gpt2):
    found = find_targets(gpt2)
    assert len(found) == 2 * 4
    assert found["transformer.h.0.attn.c_attn"] == (144, 48)
    assert found["transformer.h.0.mlp.c_proj"] == (48, 192)


def test_name_endings(llama):
    found = find_targets(llama, ["q_proj", "v_proj"])
    assert {name.rsplit(".", 1)[1] for name in found} == {"q_proj", "v_proj"}
    assert len(found) == 4
    assert found["model.layers.0.self_attn.v_proj"] == (32, 64)
    assert list(find_targets(llama, {"layers.1.mlp.up_proj"})) == ["model.layers.1.mlp.up_proj"]
    assert find_targets(llama, ("lm_head",)) == {"lm_head": (50, 64)}
    with pytest.raises(AdapterError):
        find_targets(llama, ["_proj"])  # an ending of a name is not an ending of its last part
    with pytest.raises(AdapterError):
        find_targets(llama, ["model"])


def test_regular_expressions_match_whole_names(llama):
    found = find_targets(llama, r".*layers\.0\..*(q|k)_proj")
    assert list(found) == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"]
    with pytest.raises(AdapterError):
        find_targets(llama, "q_proj")


def test_a_bare_linear_model():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    assert find_targets(model) == {"0": (4, 8), "2": (2, 4)}


def test_nothing_matches(llama):
    with pytest.raises(AdapterError, match=r"LlamaForCausalLM.*down_proj.*q_proj"):
        find_targets(llama, ["query"])
    with pytest.raises(AdapterError, match="end in: none"):
        find_targets(nn.ReLU())
    with pytest.raises(AdapterError):
        find_targets(llama, [])
    with pytest.raises(AdapterError):
        MaskPlan.for_model(llama, target_modules="nothing")


@pytest.mark.parametrize("bad", ["(", "*", [1], ["q_proj", None], 3, None])
def test_bad_targets(llama, bad):
    with pytest.raises(InvalidInputError, match="target_modules"):
        find_targets(llama, bad)


def test_a_plan_for_a_model_on_meta(llama):
    plan = MaskPlan.for_model(llama, target_modules=["q_proj", "v_proj"], r=16, rng=0)
    assert {name: pair.shape for name, pair in plan.items()} == find_targets(
        llama, ["q_proj", "v_proj"]
    )
    assert all(proof.verdict == "PROVED" for proof in plan.certify().values())


# -- what "all-linear" passes over ---------------------------------------------------------------


class Router(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Experts(nn.Module):
    """Matrices in one stack, as in transformers 5, beside a short table that is none."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.zeros(4, 64, 32))
        self.states = nn.Parameter(torch.zeros(64, 16))
        self.token = nn.Parameter(torch.zeros(1, 32, 32))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.called = nn.Linear(64, 64)
        self.read = nn.Linear(64, 64)

    def forward(self, x):
        return self.called(x) @ self.read.weight


class Whole(nn.Module):
    """One of everything, with a base model and a head as transformers' classes have them."""

    base_model_prefix = "body"

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "good": nn.Linear(64, 64),
                "router": Router(64, 64),
                "experts": Experts(),
                "reader": Reader(),
                "gate": nn.Linear(64, 1),
                "table": nn.Embedding(64, 64),
                "norm": nn.LayerNorm([32, 32]),
                "conv": nn.Conv2d(20, 20, 20),
            }
        )
        self.out = nn.Linear(64, 64)
        self.qa = nn.Linear(64, 2)

    def get_output_embeddings(self):
        return self.out


SHARE = 4 * 64 * 32 / sum(parameter.numel() for parameter in Whole().parameters())
REASONS = {
    "body.router": "Router has a forward of its own and does not compute as Linear does",
    "body.experts.stack": (
        f"{SHARE:.1%} of the model's weights, in parameters outside any linear module"
    ),
    "body.reader.read": (
        "Reader can compute with its weight without calling it, so an adapter there would be "
        "ignored"
    ),
    "body.gate": "too narrow for r=16 and left_degree=2",
    "qa": "a task head: name it in modules_to_save to train it",
}


def warned(build):
    """What ``build`` returns, and the only warning it gives, if any."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built = build()
    texts = [str(one.message) for one in caught if one.category is UserWarning]
    assert len(texts) <= 1
    return built, "".join(texts)


def test_what_is_passed_over_is_named_with_the_reason_for_each():
    assert passed_over(Whole(), r=16) == REASONS
    plan, text = warned(lambda: MaskPlan.for_model(Whole(), r=16, rng=0))
    assert set(plan) == {"body.good", "body.reader.called"}
    assert text.startswith('target_modules="all-linear" adapts 2 modules of Whole and passes over ')
    assert all(f"{name} ({reason})" in text for name, reason in REASONS.items())


@pytest.mark.parametrize(("r", "is_passed"), [(8, False), (16, True), (32, True)])
def test_a_mask_needs_two_entries_at_every_rank(r, is_passed):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    assert ("1" in passed_over(model, r=r)) == is_passed
    assert len(MaskPlan.for_model(model, r=r, rng=0)) == 2 - is_passed


def test_without_a_rank_nothing_is_too_narrow():
    assert "body.gate" in find_targets(Whole())
    assert passed_over(Whole()).keys() == REASONS.keys() - {"body.gate"}


def test_what_is_excluded_or_saved_needs_no_word():
    without = ["router", "body.experts", "read", "gate"]
    plan, text = warned(
        lambda: MaskPlan.for_model(
            Whole(), r=16, rng=0, exclude_modules=without, modules_to_save=["qa"]
        )
    )
    assert set(plan) == {"body.good", "body.reader.called"}
    assert text == ""
    plan, _ = warned(lambda: MaskPlan.for_model(Whole(), r=16, rng=0, modules_to_save=["reader"]))
    assert set(plan) == {"body.good"}


def test_names_that_repeat_over_layers_come_once():
    model = nn.ModuleDict({"layers": nn.ModuleList([Whole() for _ in range(3)])})
    _, text = warned(lambda: MaskPlan.for_model(model, r=16, rng=0))
    assert text.count("layers.*.body.router") == 1
    assert "layers.0" not in text


@pytest.mark.parametrize(("name", "reason"), [("router", "Router has a"), ("read", "Reader can")])
def test_what_cannot_be_adapted_is_refused_when_it_is_named(name, reason):
    for named in ([name], rf".*\.{name}"):
        with pytest.raises(AdapterError, match=rf"{name}' cannot be adapted: {reason}"):
            find_targets(Whole(), named)
    named = rf"body\.(good|reader\.{name}|{name})"
    assert list(find_targets(Whole(), named, exclude_modules=[name])) == ["body.good"]


def test_nothing_left_says_what_was_passed_over():
    with pytest.raises(AdapterError, match="MultiheadAttention can compute"):
        find_targets(nn.MultiheadAttention(64, 4))
    with pytest.raises(AdapterError, match=r"exclude_modules='\.\*' matches no linear"):
        find_targets(nn.Sequential(nn.Linear(8, 8)), exclude_modules=".*")


def test_a_rank_too_large_for_every_module_is_infeasible():
    with pytest.raises(InfeasibleShapeError, match="r=64, left_degree = 4 works"):
        MaskPlan.for_model(nn.Sequential(nn.Linear(32, 32)), r=64, rng=0)


def test_a_rank_that_does_not_divide_is_infeasible_whatever_is_too_narrow():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))
    with pytest.raises(InfeasibleShapeError, match="r = 32 or 64 works"):
        MaskPlan.for_model(model, r=48, rng=0)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "up_proj"], r".*(q|up)_proj"])
@pytest.mark.parametrize("without", [["layers.0.self_attn.q_proj"], r".*\.0\..*q_proj"])
def test_modules_are_excluded_by_name_ending_or_expression(llama, targets, without):
    every = find_targets(llama, targets)
    left = find_targets(llama, targets, exclude_modules=without)
    assert every.keys() - left.keys() == {"model.layers.0.self_attn.q_proj"}


@pytest.mark.parametrize("bad", ["(", [1], 3])
def test_bad_exclusions(llama, bad):
    with pytest.raises(InvalidInputError, match="exclude_modules"):
        find_targets(llama, exclude_modules=bad)


@pytest.mark.parametrize(
    ("name", "settings", "heads"),
    [
        ("BertForQuestionAnswering", {}, {"qa_outputs"}),
        ("BertForMaskedLM", {}, {"cls.predictions.transform.dense"}),
        ("BertModel", {}, set()),
        ("RobertaForSequenceClassification", {}, {"classifier.dense", "classifier.out_proj"}),
        ("DistilBertForTokenClassification", {}, {"classifier"}),
        ("LlamaForSequenceClassification", {}, {"score"}),
        ("GPT2LMHeadModel", {}, set()),
        ("T5ForConditionalGeneration", {}, set()),
        ("T5ForTokenClassification", {}, {"classifier"}),
        ("ViTForImageClassification", {}, {"classifier"}),
        ("CLIPForImageClassification", {}, {"classifier"}),
        ("Wav2Vec2ForCTC", {"num_hidden_layers": 1}, {"lm_head"}),
        ("CLIPModel", {}, set()),
    ],
)
def test_a_head_is_what_lies_outside_the_base_model(name, settings, heads):
    kind = getattr(transformers, name)
    model = on_meta(kind, kind.config_class(**settings))
    passed = passed_over(model)
    assert {n for n, reason in passed.items() if reason.startswith("a task head")} == heads
    assert set(passed) == heads
    output = model.get_output_embeddings()
    assert output is None or all(model.get_submodule(n) is not output for n in find_targets(model))


def test_a_part_of_a_model_is_not_its_base():
    class Two(nn.Module):
        base_model_prefix = "small"

        def __init__(self):
            super().__init__()
            self.small = nn.Linear(8, 8)
            self.large = nn.Linear(64, 64)

    assert set(find_targets(Two())) == {"small", "large"}


def test_the_experts_of_mixtral_are_named_with_their_share():
    config = transformers.MixtralConfig(num_hidden_layers=2, num_local_experts=8)
    model = on_meta(transformers.MixtralForCausalLM, config)
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    share = experts / sum(p.numel() for p in model.parameters())
    passed = passed_over(model)
    assert {name.rpartition(".")[2] for name in passed} == {"gate_up_proj", "down_proj"}
    assert all(reason.startswith(f"{share:.1%} of the model") for reason in passed.values())


def test_wrapped_and_adapted_models_have_the_same_targets():
    model = Whole()
    expected = find_targets(model)
    inside = Whole()
    inside.body = torch.compile(inside.body)
    for wrapped in (torch.compile(model), nn.DataParallel(model), inside):
        assert find_targets(wrapped) == expected
        assert passed_over(wrapped, r=16) == REASONS


class _Twins(nn.Module):
    """Two layers with one weight, and a third of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.third = nn.Linear(64, 64)
        self.second.weight = self.first.weight


def test_tied_weights_are_passed_over_and_named() -> None:
    assert list(find_targets(_Twins())) == ["third"]
    assert passed_over(_Twins()) == {
        "first": "its weight is tied to second.weight",
        "second": "its weight is tied to first.weight",
    }
    shared = nn.Sequential(*2 * [nn.Linear(64, 64)], nn.Linear(64, 64))
    assert list(find_targets(shared)) == ["2"]
    encoder = transformers.AlbertModel(
        transformers.AlbertConfig(
            embedding_size=32,
            hidden_size=64,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=32,
        )
    )
    assert passed_over(encoder) == {}, "one module that runs several times is not tied"


@pytest.mark.parametrize("name", ["LayerNorm", "attention", "dropout", "encoder.layer.1"])
def test_a_name_in_a_list_for_what_cannot_be_adapted_is_refused(bert, name):
    with pytest.raises(AdapterError, match=r"cannot be adapted: \w+ is neither a linear module"):
        find_targets(bert, ["query", name])


def test_a_name_in_a_list_that_is_left_out_or_that_no_module_has_is_passed_over(bert):
    """As in PEFT, so that one list serves several architectures."""
    wanted = find_targets(bert, ["query"])
    assert find_targets(bert, ["query", "q_proj"]) == wanted
    assert find_targets(bert, ["query", "LayerNorm"], ["LayerNorm"]) == wanted
