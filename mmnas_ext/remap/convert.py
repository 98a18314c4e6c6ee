"""Writes a checkpoint of any known layout as a plain file of this project's keys, for a backbone or a classifier."""

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
from mmnas_ext.remap.checkpoints import Seed, as_seed, read_state
from mmnas_ext.remap.formats import recognise
from mmnas_ext.workdir import write_bytes

# what the projects of `formats.LAYOUTS` call a classifier's linear layer, beside the network's own keys
_CLASSIFIER = re.compile(r'(?P<layer>(?:head\.fc|head|classifier|fc|_fc)(?:\.\d+)?)\.(?P<field>weight|bias)')
_BACKBONE = 'backbone.'


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Args:
        path: The file.
        arch: The architecture of the weights in it.
        container: Where in the checkpoint they were: ``state_dict_ema``, …; empty for the file itself.
        tensors: How many tensors were written.
        classes: Of the classifier, ``None`` without one.
    """

    path: Path
    arch: ArchSpec
    container: str
    tensors: int
    classes: int | None

    def __str__(self) -> str:
        taken = f' (its {self.container})' if self.container else ''
        what = 'backbone' if self.classes is None else f'classifier of {self.classes} classes'
        return f'{self.path}: {what}, {self.tensors} tensors{taken}; {self.arch.format("fna")}'


def convert(
    source: str | Path, target: str | Path, arch: Any = None, classifier: bool = False, ema: bool = True
) -> Converted:
    """Reads a checkpoint and writes its weights under MBNet's keys, the batch norms' epsilon noted beside them.

    The file is a state dict and nothing else: ``init_cfg=dict(type='Pretrained', checkpoint=…)`` of a backbone and
    `load_seed` read it. With `classifier` its keys are those of MMPretrain's ``ImageClassifier`` with a linear head
    (``backbone.…``, ``head.fc.…``), whose backbone gives the 1x1 head's features, ``out_indices=(7,)``.

    Args:
        source: A file or URL as `load_seed` takes them, such as the DNA authors' ``.pth.tar`` files.
        target: The file to write; one that is there is replaced.
        arch: The architecture, where shapes do not tell it; as in `load_seed`.
        classifier: Also keep the linear layer after the features.
        ema: Take the moving average of the weights where there is one; else what was trained itself.

    Raises:
        FileNotFoundError: There is no such file or package.
        ValueError: `source` cannot be read, has an unknown layout or no classifier; or `target` is no place to write.
        ConnectionError: The URL cannot be read.
    """
    target = Path(target).expanduser()
    if target.is_dir():
        raise ValueError(f'out must be a file, got the folder {target}')
    if target.exists() and Path(str(source)).expanduser().exists() and target.samefile(Path(str(source)).expanduser()):
        raise ValueError(f'out must be another file than the checkpoint that is read, got {target} for both')
    spec = None if arch is None else ArchSpec.parse(arch)
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
    """A seed as its MBNet's ``state_dict()`` under a prefix: PyTorch's metadata hold the batch norms' epsilon."""
    state = OrderedDict((prefix + name, tensor) for name, tensor in seed.state_dict.items())
    metadata = {'': dict(version=1)} | {prefix.removesuffix('.'): dict(version=1, bn_eps=seed.bn_eps)}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def save(state: Mapping[str, Tensor], target: Path) -> None:
    """Writes tensors to a file, its folder made if missing; a write that is cut short leaves what was there."""
    stream = BytesIO()
    torch.save(state, stream)
    write_bytes(target, stream.getvalue())


def _classifier(state: Mapping[str, Tensor], arch: ArchSpec, source: str | Path) -> tuple[Tensor, Tensor]:
    """Weight ``(classes, C)`` and bias ``(classes,)`` of the linear layer after the pooled features."""
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
            f'{source}: a classifier is a linear layer with a bias under classifier, fc or head.fc, and the checkpoint '
            f'has {found}; without --classifier the backbone alone is converted'
        )
    ((name, layer),) = linear.items()
    channels = arch.head_channels or arch.stages[-1].channels
    if layer['weight'].shape[1] != channels:
        taken = layer['weight'].shape[1]
        raise ValueError(f'{source}: the classifier {name} takes {taken} channels, and the network gives {channels}')
    return layer['weight'], layer['bias']
