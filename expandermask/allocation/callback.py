"""PolicyCallback: a policy driven by `transformers.Trainer`, and resumed with its checkpoints."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from expandermask.adapters.training.callback import POLICY_KEY
from expandermask.allocation.policy import Policy
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError

_KIND = "kind"
"""The name, among a policy's state, of its class: a state of its own may be empty."""


class PolicyCallback(TrainerCallback):
    """Let a policy decide about an adapter's ranks while a `transformers.Trainer` trains it.

    Give it to the Trainer when that is made, so that the optimizer is made for the gates and ranks
    the policy starts with. A checkpoint then holds the policy's state, among the adapter's values,
    and ``trainer.train(resume_from_checkpoint=True)``, on a model, adapter and policy made in the
    same way, goes on bit for bit. Put an `AdapterCallback` before it, so that the best adapter, if
    that is loaded at the end, is taken up before the policy is finished. A best checkpoint from
    before the policy was through has the ranks of that time. For small checkpoints use
    `SmallCheckpoints` in place of ``Trainer``.

    With ``weight_decay`` the Trainer decays all weights alike, gates included. Where that is not
    wanted, and for SoRA, which refuses it, attach the policy, make an optimizer of `Policy.groups`,
    and give the Trainer ``optimizers=(optimizer, None)``.

    What the policy adds to the loss is differentiated just before the optimizer's step: once
    however many batches are accumulated, and after gradients have been clipped.

    Parameters
    ----------
    policy : Policy
        Attached already, or attached here.
    name : str, optional
        The adapter it takes in hand, if several are active.
    finish : bool
        Whether to call `Policy.finish` when training has ended.

    Raises
    ------
    AdapterError
        The Trainer was given an optimizer that the policy cannot follow: attach the policy, make
        it of `Policy.groups`, then the Trainer. When training begins: the policy has another model
        in hand, or has finished; the checkpoint resumed from holds no state of the policy; or the
        Trainer scales its loss (fp16), whose scaled gradients would be mixed with others; bf16
        does not.
    FileFormatError
        The checkpoint resumed from holds the state of another policy.
    InvalidInputError
        ``policy`` is not a policy.

    Warns
    -----
    UserWarning
        Training ends before the policy's schedule does.

    Examples
    --------
    >>> import tempfile, torch
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from transformers import Trainer, TrainingArguments
    >>> from transformers.utils import logging
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import AdaLoRA, PolicyCallback
    >>> logging.disable_progress_bar()
    >>> model = BertForSequenceClassification(BertConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    ...     num_attention_heads=2))
    >>> config = AdapterConfig(r=8, left_degree=8, target_modules=["query", "value"])
    >>> _ = attach(model, config, rng=0)
    >>> policy = AdaLoRA(target_rank=2, total_steps=6, final_steps=1)
    >>> data = [{"input_ids": [i, i + 1], "labels": i % 2} for i in range(8)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(folder, max_steps=6, report_to=[], disable_tqdm=True,
    ...                                   logging_strategy="no", save_strategy="no", use_cpu=True)
    ...     trainer = Trainer(model, arguments, train_dataset=data,
    ...                       callbacks=[PolicyCallback(policy)])
    ...     _ = trainer.train()
    {...}
    >>> sum(layer.adapters["default"].lora_A.shape[1] for layer in model.modules()
    ...     if hasattr(layer, "adapters"))
    4
    """

    def __init__(self, policy: Policy, name: str | None = None, finish: bool = True) -> None:
        if not isinstance(policy, Policy):
            raise InvalidInputError(
                f"policy must be a policy, as AdaLoRA(target_rank=4, ...), got {policy!r:.80}"
            )
        self.policy, self.name, self.finish = policy, name, finish
        self._hooks: list[Any] = []
        self._taken_up = False
        """Whether a checkpoint's state has been loaded since training last began."""

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the policy, before there is an optimizer."""
        model: nn.Module = kwargs["model"]
        if self.policy.model is None:
            self.policy.attach(model, name=self.name)
        if self.policy.model is not model:  # refused when training begins
            return
        if kwargs.get("optimizer") is not None:
            self.policy.follow(kwargs["optimizer"])
        if not self._hooks:
            # Among the adapter's keys, since PEFT saves no others. It is loaded before all
            # modules are, since a policy may change how many values they have.
            anchor = next(iter(self.policy.adapters.values()))
            self._hooks = [
                anchor.register_state_dict_post_hook(partial(_add_state, self.policy)),
                model.register_load_state_dict_pre_hook(self._take_state),
            ]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Follow the optimizer; a checkpoint has been read by now."""
        model = kwargs["model"]
        if self.policy.model is not model:
            raise AdapterError(
                "PolicyCallback's policy has no or another model in hand; give the callback to "
                "Trainer(..., callbacks=[...]), so that it can attach the policy first, and to "
                "train again after it was finished, make another policy"
            )
        if state.global_step > 0 and not self._taken_up:
            raise AdapterError(
                f"the checkpoint resumed from holds no state of {type(self.policy).__name__}, "
                "which would start anew in the middle of training; resume from one that was saved "
                "with this PolicyCallback, or train without resume_from_checkpoint"
            )
        self._taken_up = False
        if getattr(args, "fp16", False):
            raise AdapterError(
                "with fp16 the Trainer scales the loss, and a policy would see scaled gradients; "
                "train with bf16, or in full precision"
            )
        steps = self.policy.schedule_steps
        if steps is not None and steps > state.max_steps:
            warnings.warn(
                f"{type(self.policy).__name__}'s schedule takes {steps} steps, but "
                f"training ends after {state.max_steps}, before the policy is through",
                stacklevel=2,
            )
        self.policy.follow(kwargs["optimizer"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The gradients of the policy's own loss, and its look at all gradients."""
        loss = self.policy.loss()
        if loss.requires_grad:
            loss.backward()
        self.policy.after_backward(state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The policy's decisions, before the learning rate changes."""
        self.policy.after_step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the policy, unless asked not to."""
        self._taken_up = False  # the best checkpoint may have been read
        if self.finish:
            self.policy.finish()
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _take_state(self, model: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
        """Take the policy's state out of a state dict that is about to be loaded, and up."""
        keys = [key for key in state if POLICY_KEY in key]
        own = {key.partition(POLICY_KEY)[2]: state.pop(key) for key in keys}
        if not own or self.policy.model is None:
            return
        kind = bytes(own.pop(_KIND, torch.empty(0)).tolist()).decode()
        if kind not in ("", type(self.policy).__name__):
            raise FileFormatError(
                f"the checkpoint holds the state of {kind}, and the policy is "
                f"{type(self.policy).__name__}; resume with the policy of the first run"
            )
        with torch.no_grad():
            self.policy.load_state_dict(own)
        self._taken_up = True


def _add_state(
    policy: Policy, anchor: nn.Module, state: dict[str, Tensor], prefix: str, _: Any
) -> None:
    """Put the policy's state beside the values of one part of the adapter."""
    if policy.model is None:  # finished by hand
        return
    kind = torch.tensor(list(type(policy).__name__.encode()), dtype=torch.uint8)
    for key, tensor in ({_KIND: kind} | policy.state_dict()).items():
        state[f"{prefix}{POLICY_KEY}{key}"] = tensor.detach().clone()
