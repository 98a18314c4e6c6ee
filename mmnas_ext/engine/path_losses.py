"""Losses of a super-network along given paths on held-out images: what a choice among networks is made by.

Every path sees the same batches with the same augmentation, so differences between paths are paired: what is hard about
an image cancels. Batch norms use the statistics of the batch, as in a weight step: the running ones of stem and head
are those of many paths.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from torch import nn

from mmnas_ext.archs import Choices
from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.batches import Batches
from mmnas_ext.engine.optim import find_supernet, rest_dropouts, statistics_kept
from mmnas_ext.engine.seeding import reseed
from mmnas_ext.workdir import append_line

Losses = dict[tuple[Choices, int], float]


class PathLosses:
    """Task losses of paths on held-out batches, each computed once and written down.

    Args:
        model: The detector, segmentor or classifier with the super-network in it, wrapped or not.
        batches: Held-out images; a batch is known by its position.
        seed: Of the run, for whatever the model draws.
        file: Where losses are written as they come, a line each, and read from; ``None`` keeps them in memory.
        stamp: What the losses belong to: those in the file of another stamp are not used.
        told: Called with the number of losses that were computed since it was called last.

    Attributes:
        known: Losses by path and position.
        computed: How many of them this object has computed.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        seed: int = 0,
        file: Path | None = None,
        stamp: str = '',
        told: Callable[[int], None] | None = None,
    ) -> None:
        self.model: Any = model.module if is_model_wrapper(model) else model
        self.supernet: SuperNet = find_supernet(model)
        self.batches, self.seed, self.file, self.stamp = batches, seed, file, stamp
        self.told = told or (lambda _count: None)
        self.known: Losses = self._read()
        self.computed = 0

    def rate(self, paths: Sequence[Choices], positions: Iterable[int]) -> np.ndarray:
        """Losses ``(paths, positions)``; those that are not known are computed, batch by batch.

        Args:
            paths: Candidate indices per layer, per stage.
            positions: Of the batches, ascending.

        Returns:
            Means over the processes' batches, in double.
        """
        places = list(positions)
        for position in places:
            missing = [path for path in dict.fromkeys(paths) if (path, position) not in self.known]
            if missing:
                self.batches.seek(position)
                self._compute(missing, position, next(self.batches))
        return np.array([[self.known[path, position] for position in places] for path in paths])

    def missing(self, paths: Iterable[Choices], positions: Iterable[int]) -> int:
        """How many losses `rate` would compute."""
        places = list(positions)
        return sum((path, position) not in self.known for path in set(paths) for position in places)

    @torch.no_grad()
    def _compute(self, paths: Sequence[Choices], position: int, batch: Any) -> None:
        former, choices = self.model.training, {n: m.choice for n, m in self.supernet.mixed_layers().items()}
        self.model.train()
        rest_dropouts(self.model)
        try:
            with statistics_kept(self.model):
                data = self.model.data_preprocessor(batch, training=True)
                for path in paths:
                    reseed(self.seed, 'selection', position)
                    self.supernet.set_path(path)
                    total, _ = self.model.parse_losses(self.model._run_forward(_own(data), mode='loss'))
                    loss = total.detach().double().reshape(1)
                    all_reduce(loss, 'mean')
                    self._keep(path, position, float(loss))
        finally:
            for name, layer in self.supernet.mixed_layers().items():
                layer.choice = choices[name]
            self.model.train(former)

    def _keep(self, path: Choices, position: int, loss: float) -> None:
        self.known[path, position] = loss if math.isfinite(loss) else math.inf
        if self.file is not None and is_main_process():
            record = {
                'stamp': self.stamp,
                'path': path,
                'batch': position,
                'loss': loss if math.isfinite(loss) else None,
            }
            append_line(self.file, json.dumps(record))
        self.computed += 1
        self.told(1)

    def _read(self) -> Losses:
        found: list[Any] = [{}]
        if self.file is not None and is_main_process():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            records = parse_lines(self.file) if self.file.is_file() else []
            found[0] = dict(entry for record in records for entry in _entries(record, self.stamp))
        if get_world_size() > 1:
            broadcast_object_list(found)
        return found[0]


def _own(data: Any) -> Any:
    """A batch whose samples a head may change: tensors are shared, all else is copied."""
    if isinstance(data, dict):
        return {
            name: value if isinstance(value, torch.Tensor) else copy.deepcopy(value) for name, value in data.items()
        }
    return copy.deepcopy(data)


def _entries(record: Any, stamp: str) -> list[tuple[tuple[Choices, int], float]]:
    """The loss that a line of the file tells; none where it is damaged or of another stamp."""
    try:
        if record['stamp'] != stamp:
            return []
        path = tuple(tuple(int(choice) for choice in choices) for choices in record['path'])
        loss = record['loss']
        return [((path, int(record['batch'])), math.inf if loss is None else float(loss))]
    except (KeyError, TypeError, ValueError):
        return []
