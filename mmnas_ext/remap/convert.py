"""Converts a checkpoint of any known layout to a plain file with this project's keys: of a backbone or a classifier."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec
from mmnas_ext.remap.checkpoints import Seed, as_seed, asked_arch, read_state
from mmnas_ext.remap.layouts import recognise
from mmnas_ext.workdir import write_bytes

# the names of the classifier's linear layer in the projects of `layouts.LAYOUTS`
_CLASSIFIER = re.compile(r'(?P<layer>(?:head\.fc|head|classifier|fc|_fc)(?:\.\d+)?)\.(?P<field>weight|bias)')
_BACKBONE = 'backbone.'


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Args:
        path: The file.
        arch: The architecture of its weights.
        container: Key of the weights in the checkpoint: ``state_dict_ema``, …; empty for the file itself.
        tensors: Number of tensors that were written.
        classes: Number of classes of the classifier; ``None`` without one.
    """

    path: Path
    arch: ArchSpec
    container: str
    tensors: int
    classes: int | None

    def __str__(self) -> str:
        taken = f' (from its {self.container})' if self.container else ''
        what = 'backbone' if self.classes is None else f'classifier of {self.classes} classes'
        return f'{self.path}: {what}, {self.tensors} tensors{taken}; {self.arch.format("fna")}'


def convert(
    source: str | Path, target: str | Path, arch: Any = None, classifier: bool = False, ema: bool = True
) -> Converted:
    """Reads a checkpoint and writes its weights under MBNet's keys, with the batch norms' epsilon in the metadata.

    The file is a plain state dict. ``init_cfg=dict(type='Pretrained', checkpoint=…)`` of a backbone and `load_seed`
    can read it. With `classifier` it has the keys of MMPretrain's ``ImageClassifier`` with a linear head
    (``backbone.…``, ``head.fc.…``), whose backbone returns the features of the 1x1 head, ``out_indices=(7,)``.

    Args:
        source: A file or URL as in `load_seed`, such as the DNA authors' ``.pth.tar`` files.
        target: The file to write; an existing file is replaced.
        arch: The architecture, if it does not follow from the shapes; as in `load_seed`.
        classifier: Whether to keep the linear layer after the features.
        ema: Whether to take the moving average of the weights if there is one; else the trained weights are taken.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: `source` cannot be read, has an unknown layout or no classifier, or `target` is a folder or the
            same file as `source`.
        ConnectionError: The URL cannot be read.
    """
    target = Path(target).expanduser()
    if target.is_dir():
        raise ValueError(f'out must be a file, got the folder {target}')
    if target.exists() and Path(str(source)).expanduser().exists() and target.samefile(Path(str(source)).expanduser()):
        raise ValueError(f'out must not be the checkpoint that is read, got {target} for both')
    spec = asked_arch(arch)
    state, container = read_state(source, averaged=ema)
    seed = as_seed(state, source, spec)
    written = as_state_dict(seed, _BACKBONE if classifier else '')
    classes = None
    if classifier:
        written['head.fc.weight'], written['head.fc.bias'] = _classifier(state, seed.arch, source)
        classes = len(written['head.fc.bias'])
    save(written, target)
    return Converted(target, seed.arch, container, len(written), classes)


def as_state_dict(seed: Seed, prefix: str = '') -> 'OrderedDict[str, Tensor]':
    """Returns a seed as the ``state_dict()`` of its MBNet under a prefix, with the batch norms' epsilon as metadata."""
    state = OrderedDict((prefix + name, tensor) for name, tensor in seed.state_dict.items())
    note = dict(version=1, bn_eps=seed.bn_eps) | ({} if seed.eps_known else dict(bn_eps_assumed=True))
    metadata = {'': dict(version=1)} | {prefix.removesuffix('.'): note}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def save(state: Mapping[str, Tensor], target: Path) -> None:
    """Writes tensors to a file, and creates its folder if missing; an interrupted write keeps the old file."""
    stream = BytesIO()
    torch.save(state, stream)
    write_bytes(target, stream.getvalue())


def _classifier(state: Mapping[str, Tensor], arch: ArchSpec, source: str | Path) -> tuple[Tensor, Tensor]:
    """Finds the classifier's linear layer; returns its weight ``(classes, C)`` and bias ``(classes,)``."""
    _, prefix = recognise(state)
    outside = prefix.removesuffix(_BACKBONE)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _CLASSIFIER.fullmatch(key.removeprefix(outside)) if key.startswith(outside) else None
        if match:
            layers.setdefault(match['layer'], {})[match['field']] = tensor.detach().float().contiguous()
    linear = {
        name: layer
        for name, layer in layers.items()
        if layer.keys() == {'weight', 'bias'} and layer['weight'].ndim == 2
    }
    if len(linear) != 1:
        found = f'several, {sorted(linear)}' if linear else 'none'
        raise ValueError(
            f'{source}: a classifier must be one linear layer with a bias under classifier, fc or head.fc, got '
            f'{found}; without --classifier only the backbone is converted'
        )
    ((name, layer),) = linear.items()
    channels = arch.head_channels or arch.stages[-1].channels
    if layer['weight'].shape[1] != channels:
        taken = layer['weight'].shape[1]
        raise ValueError(f'{source}: the classifier {name} must have {channels} input channels, got {taken}')
    return layer['weight'], layer['bias']
