"""AdapterCallback: adapters saved in every checkpoint of a Trainer, and resumed from."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from expandermask.adapters import load_adapter, save_adapter
from expandermask.adapters.attachment import attachment, is_attached
from expandermask.adapters.training.distributed import require_same
from expandermask.adapters.training.small_state import SmallState
from expandermask.errors import AdapterError, InvalidInputError

_SAVE = "_save_checkpoint"
"""The Trainer's method for a whole checkpoint. Under another name nothing would be left out."""

Adapters = dict[str, str]
"""The hash of every adapter's masks and scale, by its name."""


class AdapterCallback(TrainerCallback, ExportableState):
    """Save every adapter with each checkpoint of a `transformers.Trainer`, and resume exactly.

    A checkpoint then holds ``checkpoint-N/adapter/NAME/`` for each adapter on the model, as
    `save_adapter` writes it, so ``load_adapter(fresh_model, "checkpoint-N/adapter/NAME")`` takes
    it up without the Trainer. ``trainer.train(resume_from_checkpoint=True)``, on a model made and
    attached in the same way, goes on as if it had never stopped: weights, optimizer, learning rate
    and dropout, bit for bit. ``load_best_model_at_end`` works.

    The Trainer's own ``model.safetensors`` is kept small: while a checkpoint is written, frozen
    parameters are left out of the model's state dict (by `register_state_dict_post_hook`), and when
    it is read they are not missed. Buffers are kept, since training may change them.

    Checked where training begins: all processes have the same masks, and a checkpoint resumed from
    was saved with the adapters the model has. The Trainer itself would load values onto other
    masks without a word.

    Parameters
    ----------
    folder : str
        Name of the folder inside each checkpoint.
    save_base : bool
        Write the frozen parameters into every checkpoint too.

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
    >>> from transformers import Trainer, TrainingArguments
    >>> from transformers.utils import logging
    >>> from expandermask.adapters import AdapterCallback, AdapterConfig, attach, load_adapter
    >>> logging.disable_progress_bar()
    >>> shape = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
    ...                    num_hidden_layers=1, num_attention_heads=2)
    >>> model, fresh = (BertForSequenceClassification(shape) for _ in range(2))
    >>> plan = attach(model, AdapterConfig(r=8, target_modules=["query", "value"]), rng=0)
    >>> data = [{"input_ids": [i, i + 1], "labels": i % 2} for i in range(8)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(folder, max_steps=2, save_steps=1, report_to=[],
    ...                                   disable_tqdm=True, logging_strategy="no", use_cpu=True)
    ...     trainer = Trainer(model, arguments, train_dataset=data, callbacks=[AdapterCallback()])
    ...     _ = trainer.train()
    ...     load_adapter(fresh, f"{folder}/checkpoint-2/adapter/default") == plan
    {...}
    True
    """

    def __init__(self, folder: str = "adapter", save_base: bool = False) -> None:
        if not isinstance(folder, str) or folder in ("", ".", "..") or Path(folder).name != folder:
            raise InvalidInputError(
                f"folder must be the name of a folder inside each checkpoint, got {folder!r}"
            )
        self.folder, self.save_base = folder, save_base
        self.adapters: Adapters = {}
        self._small: SmallState | None = None
        self._model: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in ``trainer_state.json``: arguments, and hashes of adapters."""
        arguments = {"folder": self.folder, "save_base": self.save_base}
        if self._model is not None and is_attached(
            self._model
        ):  # its masks may have changed since training began
            self.adapters = _hashes(self._model)
        return {"args": arguments, "attributes": {"adapters": self.adapters}}

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint may be read from now on."""
        self._watch(kwargs["model"])
        self._writing(False, reading=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the adapters; the Trainer has read the checkpoint it resumes from."""
        if state.is_hyper_param_search:
            raise AdapterError(
                "AdapterCallback does not work in hyperparameter_search, which names checkpoint "
                "folders by trials a callback is not told; call save_adapter after each trial"
            )
        model = kwargs["model"]
        self.adapters = _hashes(model)
        require_same(self.adapters, "the adapters (masks and scale) on the model")
        if state.global_step > 0:
            self._require_resumable(state)
        self._model = model
        self._watch(model)
        self._writing(False)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """No checkpoint is written during a step."""
        self._writing(False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint may follow."""
        self._writing(True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint may follow, or the best one be read."""
        self._writing(True, reading=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the adapters to the checkpoint just written; under torch.distributed all ranks do."""
        self._writing(False, reading=True)
        model, folder = kwargs["model"], self._folder(args, state.global_step)
        for name in attachment(model).adapters:
            save_adapter(model, folder / name, name=name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make sure of the best adapters, since the Trainer only warns if it does not find them."""
        self._writing(False)
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            folder = Path(state.best_model_checkpoint) / self.folder
            for name in self.adapters:
                load_adapter(kwargs["model"], folder / name, name=name)

    def _folder(self, args: Any, step: int) -> Path:
        return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}" / self.folder

    def _watch(self, model: nn.Module) -> None:
        if not self.save_base and (self._small is None or self._small.model is not model):
            self._small = SmallState(model, _in_save)

    def _writing(self, writing: bool, *, reading: bool = False) -> None:
        if self._small is not None:
            self._small.switch.writing, self._small.switch.reading = writing, reading

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


def _in_save() -> bool:
    """Whether the Trainer is writing a checkpoint, by the functions being run.

    No callback is told that one begins, nor that a run was interrupted: before an evaluation, or by
    a full disk in the middle of a checkpoint, after which the user may save the model whole.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != _SAVE:
        frame = frame.f_back
    return frame is not None


def _hashes(model: nn.Module) -> Adapters:
    """A hash of the plan and scale of every adapter on ``model``; of no values."""
    return {
        name: hashlib.sha256(
            json.dumps(
                [adapter.plan.to_json(), adapter.config.lora_alpha, adapter.config.scaling]
            ).encode()
        ).hexdigest()
        for name, adapter in attachment(model).adapters.items()
    }
