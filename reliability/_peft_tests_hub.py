"""Tiny random models under the names that PEFT's tests ask the Hugging Face hub for.

    HF_HOME=FOLDER python reliability/_peft_tests_hub.py

`peft_tests.py` starts it. The folder gets the layout of a hub cache, so the tests load the models
offline.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from expandermask.files import write_text

SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
}
TEXT = [f"number {n} is {n % 7} modulo seven and {n % 11} modulo eleven" for n in range(200)]
"""What the tokenizer is trained on, and the data set of the tests that train."""

VOCABULARY, POSITIONS, HEADS, WIDTH = 1000, 512, 4, 32
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_layer": 5,
    "n_positions": POSITIONS,
    "bos_token_id": 98,
    "eos_token_id": 98,
    "pad_token_id": 98,
}
PLAIN = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
ENCODER = PLAIN | {"intermediate_size": 37, "num_hidden_layers": 5}
DECODER = PLAIN | {"intermediate_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2}
OPT = PLAIN | {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 4,
    "num_hidden_layers": 5,
    "max_position_embeddings": 100,
    "init_std": 0.05,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
LLAMA = DECODER | {
    "hidden_size": 16,
    "num_key_value_heads": 4,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 4,
    "decoder_ffn_dim": 4,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "max_position_embeddings": 100,
    "init_std": 0.05,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 5,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
QWEN = DECODER | {"hidden_size": 8, "intermediate_size": 32}
GEMMA = DECODER | {
    "head_dim": 8,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "initializer_range": 0.1,
}
CLIP = PLAIN | {"intermediate_size": 37, "num_hidden_layers": 5, "max_position_embeddings": 77}

PEFT, HUB, TRL = "peft-internal-testing/", "hf-internal-testing/", "trl-internal-testing/"
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    PEFT + "tiny-random-OPTForCausalLM": ("OPTForCausalLM", "OPTConfig", OPT),
    PEFT + "opt-125m": (
        "OPTForCausalLM",
        "OPTConfig",
        OPT
        | {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 12},
    ),
    PEFT + "tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", "GPT2Config", GPT),
    HUB + "tiny-random-gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    PEFT + "tiny-random-GPTJForCausalLM": (
        "GPTJForCausalLM",
        "GPTJConfig",
        GPT | {"rotary_dim": 4},
    ),
    TRL + "tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    TRL + "tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        "LlamaConfig",
        LLAMA,
    ),
    PEFT + "tiny-dummy-qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        QWEN | {"initializer_range": 0.1},
    ),
    TRL + "tiny-Qwen3ForCausalLM": ("Qwen3ForCausalLM", "Qwen3Config", QWEN | {"head_dim": 4}),
    HUB + "tiny-random-MistralForCausalLM": (
        "MistralForCausalLM",
        "MistralConfig",
        DECODER | {"intermediate_size": 37},
    ),
    HUB + "tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA),
    PEFT + "tiny-random-BertModel": ("BertModel", "BertConfig", ENCODER),
    HUB + "tiny-random-BertModel": ("BertModel", "BertConfig", ENCODER),
    PEFT + "tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        "BertConfig",
        ENCODER,
    ),
    "bert-base-uncased": ("BertForSequenceClassification", "BertConfig", ENCODER),
    PEFT + "tiny-random-RobertaModel": (
        "RobertaModel",
        "RobertaConfig",
        ENCODER | {"pad_token_id": 1},
    ),
    PEFT + "tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        "RobertaConfig",
        ENCODER | {"pad_token_id": 1},
    ),
    PEFT + "tiny-random-DebertaModel": ("DebertaModel", "DebertaConfig", ENCODER),
    PEFT + "tiny-random-DebertaV2Model": ("DebertaV2Model", "DebertaV2Config", ENCODER),
    PEFT + "tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5,
    ),
    PEFT + "tiny-random-BartForConditionalGeneration": (
        "BartForConditionalGeneration",
        "BartConfig",
        BART,
    ),
    PEFT + "tiny-clip-text-2": ("CLIPTextModel", "CLIPTextConfig", CLIP),
}
"""The class of each model, of its config, and what the config gets."""


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer of 400 tokens, which every model gets."""
    made = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def snapshot(name: str, revision: str = "main") -> Path:
    """The folder of a model's revision, as if the hub's client had downloaded it."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
    commit = hashlib.sha1(revision.encode()).hexdigest()
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    write_text(folder / "refs" / revision, commit)
    return folder / "snapshots" / commit


def random_model(name: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A model of the table with random weights."""
    torch.manual_seed(seed)
    model_class, config_class, settings = MODELS[name]
    config = getattr(transformers, config_class)(**settings)
    return getattr(transformers, model_class)(config)


def main() -> None:
    """Write every model with the tokenizer, a second revision of one, and a config of PEFT's."""
    shared = tokenizer()
    for name in tqdm(MODELS, desc="models", unit="model"):
        random_model(name).save_pretrained(snapshot(name))
        shared.save_pretrained(snapshot(name))
    bert = PEFT + "tiny-random-BertModel"
    random_model(bert, seed=1).save_pretrained(snapshot(bert, "v2.0.0"))
    adapter = snapshot(PEFT + "tiny-opt-lora-revision", "test")
    LoraConfig(target_modules=["q_proj", "v_proj"]).save_pretrained(adapter)


if __name__ == "__main__":
    main()
