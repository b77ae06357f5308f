"""Adapters and a transformers Trainer: AdapterCallback and SmallCheckpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from expandermask.adapters import load_adapter, save_adapter
from expandermask.adapters.attachment import attachment, is_attached, mask_hashes
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.training.distributed import require_same
from expandermask.errors import AdapterError, InvalidInputError

POLICY_KEY = "expandermask_policy."
"""What stands before the names of a policy's state, where it is among a model's."""
_AROUND = {"base", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Parts of a parameter's name that its key in a state dict may lack."""


class SmallCheckpoints(Trainer):
    """A `transformers.Trainer` whose checkpoints hold only what training can change.

    Use it in place of ``Trainer``, or mix it into another one:
    ``class MyTrainer(SmallCheckpoints, Seq2SeqTrainer): ...``. It takes what that takes.

    A checkpoint's ``model.safetensors`` then holds the adapters, every other parameter that
    requires gradients, and all buffers, but no frozen parameter. ``train(resume_from_checkpoint=)``
    and ``load_best_model_at_end`` read such a file onto a model that has the frozen parameters
    already. A plain ``Trainer`` reads it too and warns of missing keys, which it can do for a
    `transformers.PreTrainedModel` only.

    Everything else sees the whole model: ``save_model()``, ``push_to_hub()``,
    ``model.state_dict()``, an evaluation, a run that was interrupted. With ``push_to_hub=True``
    checkpoints are published as the model, so they stay whole too. PEFT's models write small
    files by themselves. Nothing is left out of a model without adapters.

    Examples
    --------
    See `AdapterCallback`.
    """

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and into a checkpoint only what training can change."""
        # push_to_hub() calls this internally too, for the whole model and without a folder.
        is_checkpoint = _internal_call and output_dir is not None and not self.args.push_to_hub
        with small_state(self.model) if is_checkpoint else nullcontext():
            super().save_model(output_dir, _internal_call)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`; frozen parameters are not reported as missing."""
        with frozen_not_missing(self.model):
            return super().train(*args, **kwargs)


class AdapterCallback(TrainerCallback, ExportableState):
    """Save every adapter with each checkpoint of a `transformers.Trainer`, and resume exactly.

    A checkpoint then holds ``checkpoint-N/adapter/NAME/`` for each adapter on the model, as
    `save_adapter` writes it, so ``load_adapter(fresh_model, "checkpoint-N/adapter/NAME")`` takes
    it up without the Trainer. ``trainer.train(resume_from_checkpoint=True)``, on a model made and
    attached in the same way, goes on as if it had never stopped: weights, optimizer, learning rate
    and dropout, bit for bit. ``load_best_model_at_end`` works.

    The Trainer's own ``model.safetensors`` holds the whole model, base included. Where that is
    too large, use `SmallCheckpoints` in place of ``Trainer``.

    Checked where training begins: all processes have the same masks, and a checkpoint resumed from
    was saved with the adapters the model has. The Trainer itself would load values onto other
    masks without a word.

    Parameters
    ----------
    folder : str
        Name of the folder inside each checkpoint.

    Raises
    ------
    InvalidInputError
        ``folder`` is not one plain name.
    AdapterError
        When training begins: no adapters are attached, the checks above fail, or a hyperparameter
        search runs, whose folders a callback is not told.

    Examples
    --------
    >>> import tempfile, torch
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from transformers import TrainingArguments
    >>> from transformers.utils import logging
    >>> from expandermask.adapters import AdapterCallback, AdapterConfig, SmallCheckpoints
    >>> from expandermask.adapters import attach, load_adapter
    >>> logging.disable_progress_bar()
    >>> shape = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
    ...                    num_hidden_layers=1, num_attention_heads=2)
    >>> model, fresh = (BertForSequenceClassification(shape) for _ in range(2))
    >>> plan = attach(model, AdapterConfig(r=8, target_modules=["query", "value"]), rng=0)
    >>> data = [{"input_ids": [i, i + 1], "labels": i % 2} for i in range(8)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(folder, max_steps=2, save_steps=1, report_to=[],
    ...                                   disable_tqdm=True, logging_strategy="no", use_cpu=True)
    ...     trainer = SmallCheckpoints(model, arguments, train_dataset=data,
    ...                                callbacks=[AdapterCallback()])
    ...     _ = trainer.train()
    ...     load_adapter(fresh, f"{folder}/checkpoint-2/adapter/default") == plan
    {...}
    True
    """

    def __init__(self, folder: str = "adapter") -> None:
        if not isinstance(folder, str) or folder in ("", ".", "..") or Path(folder).name != folder:
            raise InvalidInputError(
                f"folder must be the name of a folder inside each checkpoint, got {folder!r}"
            )
        self.folder = folder
        self.adapters: dict[str, str] = {}
        self._model: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in ``trainer_state.json``: arguments, and hashes of adapters."""
        if self._model is not None and is_attached(self._model):
            # The masks may have changed since training began.
            self.adapters = mask_hashes(self._model)
        return {"args": {"folder": self.folder}, "attributes": {"adapters": self.adapters}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the adapters; the Trainer has read the checkpoint it resumes from."""
        if state.is_hyper_param_search:
            raise AdapterError(
                "AdapterCallback does not work in hyperparameter_search, which names checkpoint "
                "folders by trials a callback is not told; call save_adapter after each trial"
            )
        model = kwargs["model"]
        self.adapters = mask_hashes(model)
        require_same(self.adapters, "the adapters (masks and scale) on the model")
        if state.global_step > 0:
            self._require_resumable(state)
        self._model = model

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the adapters to the checkpoint just written; under torch.distributed all ranks do."""
        model, folder = kwargs["model"], self._folder(args, state.global_step)
        for name in attachment(model).adapters:
            save_adapter(model, folder / name, name=name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make sure of the best adapters, since the Trainer only warns if it does not find them."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            folder = Path(state.best_model_checkpoint) / self.folder
            for name in self.adapters:
                load_adapter(kwargs["model"], folder / name, name=name)

    def _folder(self, args: Any, step: int) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}" / self.folder

    def _require_resumable(self, state: Any) -> None:
        found = state.stateful_callbacks.get(type(self).__name__)
        entries = found if isinstance(found, list) else [found]
        saved = [entry["attributes"]["adapters"] for entry in entries if entry]
        if self.adapters in saved:
            return
        if not saved:
            raise AdapterError(
                "the checkpoint resumed from was saved without AdapterCallback, so nothing says "
                "that its values belong to the masks on the model; start anew, or load_adapter a "
                "saved one and train without resume_from_checkpoint"
            )
        differing = sorted(n for n, h in self.adapters.items() if saved[-1].get(n) != h)
        raise AdapterError(
            f"the checkpoint resumed from has adapters {sorted(saved[-1])}, and the model has "
            f"{sorted(self.adapters)}; other masks or another scale: {differing or 'none'}; attach "
            "with the rng and config of the first run"
        )


# -- state dicts without the frozen base: what training can change, and nothing else --------------


def changing_keys(model: nn.Module) -> set[str]:
    """The state dict keys, as `_plain` writes them, of all tensors that training can change.

    These are parameters that require gradients, everything of every adapter, and all buffers: a
    frozen normalisation layer still updates its running means.
    """
    own = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, MaskedAdapter)
        for parameter in module.parameters()
    }
    found = {_plain(name) for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad or id(parameter) in own:
            found.add(_plain(name))
    return found


@contextmanager
def small_state(model: nn.Module) -> Iterator[None]:
    """Within the block ``model.state_dict()`` leaves out what training cannot change.

    Nothing is left out of a model without adapters. PEFT writes small files by itself and looks
    some frozen tensors up, so nothing is left out of its models either.
    """
    hook = model.register_state_dict_post_hook(_leave_out)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def frozen_not_missing(model: nn.Module) -> Iterator[None]:
    """Within the block ``model.load_state_dict`` does not miss what `small_state` leaves out."""
    hook = model.register_load_state_dict_post_hook(_not_missing)
    try:
        yield
    finally:
        hook.remove()


def _leave_out(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    if not is_attached(model) or hasattr(model, "peft_config"):
        return
    keep = changing_keys(model)
    for key in [key for key in state if key.startswith(prefix) and POLICY_KEY not in key]:
        if _plain(key.removeprefix(prefix)) not in keep:
            del state[key]


def _not_missing(model: nn.Module, incompatible: Any) -> None:
    if is_attached(model):
        keep = changing_keys(model)
        missing = incompatible.missing_keys
        missing[:] = [key for key in missing if _plain(key) in keep]


def _plain(key: str) -> str:
    """A key without the parts that wrappers and adapted layers put in, so that keys compare.

    Two keys that become one can only keep more in a file.
    """
    return ".".join(part for part in key.split(".") if part not in _AROUND)
