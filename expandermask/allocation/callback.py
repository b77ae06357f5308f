"""PolicyCallback: a policy driven by `transformers.Trainer`, and resumed with its checkpoints."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from expandermask.adapters.training.small_state import POLICY_KEY
from expandermask.allocation.policy import Policy
from expandermask.errors import AdapterError, InvalidInputError


class PolicyCallback(TrainerCallback):
    """Let a policy decide about an adapter's ranks while a `transformers.Trainer` trains it.

    Give it to the Trainer when that is made, so that the optimizer is made for the gates and ranks
    the policy starts with. A checkpoint's state dict then holds the policy's state too, and
    ``trainer.train(resume_from_checkpoint=True)``, on a model, adapter and policy made in the same
    way, goes on bit for bit. For small checkpoints put an `AdapterCallback` before it, so that the
    best adapter, if that is loaded at the end, is taken up before the policy is finished. A best
    checkpoint from before the policy was through has the ranks of that time.

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
        in hand, or has finished, or the Trainer scales its loss (fp16), whose scaled gradients
        would be mixed with others; bf16 does not.
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
    >>> sum(layer.adapters["default"].values_a.shape[1] for layer in model.modules()
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

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the policy, before there is an optimizer."""
        model = kwargs["model"]
        if self.policy.model is None:
            self.policy.attach(model, name=self.name)
        if self.policy.model is model and kwargs.get("optimizer") is not None:
            self.policy.follow(kwargs["optimizer"])
        self._watch(model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Follow the optimizer; a checkpoint has been read by now."""
        model = kwargs["model"]
        if self.policy.model is not model:
            raise AdapterError(
                "PolicyCallback's policy has no or another model in hand; give the callback to "
                "Trainer(..., callbacks=[...]), so that it can attach the policy first, and to "
                "train again after it was finished, make another policy"
            )
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
        if self.finish:
            self.policy.finish()
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _watch(self, model: nn.Module) -> None:
        """Put the policy's state into the model's state dict, and take it out again."""
        if not self._hooks:
            self._hooks = [
                model.register_state_dict_post_hook(partial(_add_state, self.policy)),
                model.register_load_state_dict_pre_hook(partial(_take_state, self.policy)),
            ]


def _add_state(
    policy: Policy, model: nn.Module, state: dict[str, Tensor], prefix: str, _: Any
) -> None:
    if policy.model is None:  # finished by hand
        return
    for key, tensor in policy.state_dict().items():
        state[f"{prefix}{POLICY_KEY}{key}"] = tensor.detach().clone()


def _take_state(
    policy: Policy, model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    start = prefix + POLICY_KEY
    own = {key: state.pop(key) for key in list(state) if key.startswith(start)}
    if own and policy.model is not None:
        with torch.no_grad():
            policy.load_state_dict({k.removeprefix(start): t for k, t in own.items()})
