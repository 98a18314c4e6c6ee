"""What leaves this project, whose every file is checked before it is there: networks to export, and plain weights.

A file is written beside its place, read back and compared with the network, and moved to its place only then.
"""

import os
import runpy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import load_seed
from mmnas_ext.remap.convert import as_state_dict, save
from mmnas_ext.remap.loading import safe_loading
from mmnas_ext.remap.reader import read_checkpoint
from mmnas_ext.remap.renaming import rename
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.configs import read_config
from mmnas_ext.runs.export_timm import (
    DEFAULT_EPS,
    ExportError,
    build_timm,
    check_timm,
    timm_code,
    timm_module,
    without_head,
)
from mmnas_ext.runs.prepared import scope_of
from mmnas_ext.workdir import WorkDir

TOLERANCE = 1e-4  # of the largest figure of an output, or absolute below 1
# ImageNet's, in red, green, blue of 0..255: what the zoo's weights were trained with
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LEVELS = {'cls_score': '', 'bbox_pred': '', 'centerness': 'loss_centerness', 'objectness': 'loss_obj'}


@dataclass(frozen=True)
class Subject:
    """A network to export.

    Args:
        module: In eval mode; maps normalised images ``(N, 3, H, W)`` to a tuple of tensors.
        outputs: What these are called.
        kind: ``'backbone'``, ``'detector'``, ``'segmentor'`` or ``'classifier'``.
        state: Its tensors under its own keys.
        arch: Of its backbone; ``None`` where that is none of ours.
        backbone: Tensors of that under `MBNet`'s keys.
        mean: What is subtracted of an image's channels before, 0..255.
        std: What they are divided by then.
        order: Order of the channels, ``'rgb'`` or ``'bgr'``.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    kind: str
    state: Mapping[str, Tensor]
    arch: ArchSpec | None = None
    backbone: Mapping[str, Tensor] = field(default_factory=dict)
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    order: str = 'rgb'

    def normalise(self, image: np.ndarray, size: tuple[int, int]) -> Tensor:
        """An image in blue, green, red of 0..255, ``(h, w, 3)``, as the network sees it in `size`: ``(1, 3, H, W)``."""
        scaled = mmcv.imresize(image, size[::-1]).astype(np.float32)
        scaled = scaled[..., ::-1] if self.order == 'rgb' else scaled
        whole = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(whole.transpose(2, 0, 1)))[None]


class _Outputs(nn.Module):
    """A host's model up to the outputs of its head, as a flat tuple: no proposals, boxes or masks are made of them."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps ``(N, 3, H, W)`` to what the head gives; of a segmentor logits at the size of the image."""
        found = tuple(_flat(self.model(image, mode='tensor')))
        if self.kind != 'segmentor':
            return found
        corners: Any = self.model.align_corners
        return tuple(F.interpolate(each, image.shape[2:], mode='bilinear', align_corners=corners) for each in found)


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for inner in value:
            yield from _flat(inner)


def backbone_subject(
    arch: Any,
    weights: str | Path | None = None,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
) -> Subject:
    """A backbone by its architecture and weights.

    Args:
        arch: Anything that `ArchSpec.parse` reads.
        weights: A checkpoint of it as in `load_seed`, also a whole detector's; ``None`` where weights do not matter.
        out_indices: As in `MBNet`; by default 1, 2, 4 and 6 of seven stages, else the last one.
        output_stride: As in `MBNet`.

    Raises:
        ValueError: The architecture is malformed, or the weights belong to another network.
        FileNotFoundError: There are no such weights.
    """
    spec, seed = ArchSpec.parse(arch), None
    if weights is not None:
        seed = load_seed(weights, arch)
        spec = seed.arch
    indices = tuple(out_indices or ((1, 2, 4, 6) if len(spec.stages) == 7 else (len(spec.stages) - 1,)))
    module = MBNet(spec, out_indices=indices, output_stride=output_stride).eval()
    state: Mapping[str, Tensor] = {}
    if seed is not None:
        state = as_state_dict(seed)
        module.load_state_dict(state)
    return Subject(module, tuple(f'stage{i}' for i in indices), 'backbone', state, spec, state)


def model_subject(config: str | Path, checkpoint: str | Path | None = None) -> Subject:
    """A whole model by the config that trained it, such as ``derived/config.py``, and a checkpoint.

    Args:
        config: The config; or the work dir of a run, whose found network and newest checkpoint are taken.
        checkpoint: The file; ``None`` where weights do not matter, or the work dir has them.

    Raises:
        ValueError: The config is of a search, the checkpoint is of another model.
        FileNotFoundError: A file does not exist.
        ExportError: There is no graph of such a model: it chooses proposals between its stages.
    """
    if Path(config).is_dir():
        files = WorkDir(Path(config))
        config, checkpoint = files.config, checkpoint or find_checkpoint(files.adapt).path
        if checkpoint is None:
            raise FileNotFoundError(f'{files.root} holds no whole checkpoint of a trained network, in {files.adapt}')
    cfg = read_config(config)
    if cfg.get('derived'):
        raise ValueError(f'{config} describes a search: export what it wrote, <work dir>/derived/config.py')
    with scope_of(cfg), safe_loading():
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
        if checkpoint is not None:
            try:
                load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True, logger='silent')
            except RuntimeError as error:
                raise ValueError(f'{checkpoint} must hold the network of {config}: {error}') from None
    kind = _kind(model)
    backbone = model.backbone if isinstance(getattr(model, 'backbone', None), MBNet) else None
    parts = cfg.model.get('data_preprocessor') or {}
    said = {key: tuple(parts[key]) for key in ('mean', 'std') if parts.get(key)}
    return Subject(
        _Outputs(model, kind).eval(),
        (),
        kind,
        model.state_dict() if checkpoint is not None else {},
        None if backbone is None else _whole_arch(backbone),
        {} if backbone is None or checkpoint is None else backbone.state_dict(),
        order='rgb' if parts.get('bgr_to_rgb') or parts.get('to_rgb') else 'bgr',
        **{'mean': (0.0,) * 3, 'std': (1.0,) * 3, **said},
    )


def _whole_arch(backbone: MBNet) -> ArchSpec:
    """The architecture with the epsilon of its batch norms: a config may say that elsewhere, and weights note it."""
    arch, eps = backbone.arch, backbone.bn_eps
    return arch if eps is None or eps == (arch.bn_eps or DEFAULT_EPS) else arch.replace(bn_eps=eps)


def _kind(model: nn.Module) -> str:
    """What a host's model is."""
    if hasattr(model, 'decode_head'):
        return 'segmentor'
    if hasattr(model, 'roi_head') or hasattr(model, 'rpn_head'):
        raise ExportError(
            f'{type(model).__name__} chooses proposals between its stages, which no graph of its outputs says: export '
            'its backbone (the arch, with --weights its checkpoint), or take a single-stage detector'
        )
    return 'detector' if hasattr(model, 'bbox_head') else 'classifier'


def name_outputs(subject: Subject, image: Tensor) -> tuple[str, ...]:
    """Names of what a network gives for an image ``(N, 3, H, W)``: of a detector per kind and level, as its head."""
    if subject.outputs:
        return subject.outputs
    if subject.kind != 'detector':
        found = subject.module(image)
        word = 'logits' if subject.kind == 'segmentor' else 'output'
        return (word,) if len(found) == 1 else tuple(f'{word}_{i}' for i in range(len(found)))
    model: Any = subject.module.model
    kinds = [name for name, loss in _LEVELS.items() if not loss or hasattr(model.bbox_head, loss)]
    given = model(image, mode='tensor')  # a tuple of kinds, each with its levels
    kinds += [f'output{number}' for number in range(len(kinds), len(given))]
    return tuple(
        f'{kind}_{level}' for kind, maps in zip(kinds, given, strict=False) for level, _ in enumerate(_flat(maps))
    )


def real_image(file: str | Path | None = None) -> np.ndarray:
    """A photograph, blue, green, red: of a file, else the one that Matplotlib comes with.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image.
    """
    if file is None:
        from matplotlib import cbook

        file = cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)
    if not Path(file).is_file():
        raise FileNotFoundError(f'image {file} does not exist')
    image = mmcv.imread(str(file))
    if image is None:
        raise ValueError(f'image {file} cannot be read')
    return image


def check_target(target: str | Path, overwrite: bool = False) -> Path:
    """Returns the path of a file that may be written.

    Raises:
        FileExistsError: The target is there, and `overwrite` is not set.
        ValueError: It is a folder.
    """
    target = Path(target).expanduser()
    if target.is_dir():
        raise ValueError(f'a file must be named, got the folder {target}')
    if target.exists() and not overwrite:
        raise FileExistsError(f'{target} exists: pass --overwrite to replace it, or name another file')
    return target


@contextmanager
def verified(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives the path of a file to write and check; it goes to its place if nothing is raised, and is deleted else.

    Raises as `check_target`.
    """
    target = check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'.part_{target.name}')
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def compare(what: str, wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The largest error of outputs, over 1 or the largest figure of that output.

    Raises:
        ExportError: It is above `TOLERANCE`, or shapes differ.
    """
    shapes = [[tuple(each.shape) for each in outputs] for outputs in (wanted, got)]
    if shapes[0] != shapes[1]:
        raise ExportError(f'{what}: outputs must have the shapes {shapes[0]}, got {shapes[1]}')
    worst = 0.0
    for mine, theirs in zip(wanted, got, strict=True):
        error = float((mine.double() - theirs.double()).abs().max()) / max(1.0, float(mine.abs().max()))
        # a figure that is not finite is an error too: no comparison with it holds
        if not error <= TOLERANCE:
            raise ExportError(f'{what}: outputs differ by {error:.2g}, and at most {TOLERANCE:g} is allowed')
        worst = max(worst, error)
    return worst


def write_state_dict(subject: Subject, target: str | Path, keys: str = '', overwrite: bool = False) -> str:
    """Writes plain weights, reads them back, and says what was written.

    Args:
        subject: The network, with weights.
        target: The file.
        keys: Of its backbone alone, under these keys as in `rename`; empty: the whole network under its own.
        overwrite: Replace a file that is there.

    Raises:
        ExportError: There are no weights, no backbone of ours, or what is read back differs.
        ValueError: The keys have none for a layer.
    """
    state = subject.backbone if keys else subject.state
    if not state:
        raise ExportError('a state dict needs weights: name a checkpoint, and with --keys one of a backbone of ours')
    if keys not in ('', 'mbnet'):
        assert subject.arch is not None, 'a backbone of ours has one'
        state = rename(state, subject.arch, keys)
    with verified(target, overwrite) as part:
        save(state, part)
        _check_state(subject, part, keys)
    what = f'the backbone, keys of {keys}' if keys else f'the {subject.kind}'
    return f'{target}: weights of {what}, {len(state)} tensors, read back and compared'


def _check_state(subject: Subject, file: Path, keys: str) -> None:
    """Raises ExportError where a file does not hold the network's tensors for those who read it."""
    if not keys and subject.kind != 'backbone':
        read: Mapping[str, Tensor] = read_checkpoint(file)
        _check_equal(subject.state, read)
        return
    assert subject.arch is not None, 'a backbone of ours has one'
    state = subject.backbone
    arch = without_head(subject.arch, state)
    seed = load_seed(file, arch)
    _check_equal(state, seed.state_dict)
    last = len(arch.stages) if arch.head_channels else len(arch.stages) - 1
    MBNet(arch, out_indices=(last,)).load_state_dict(seed.state_dict, strict=True)
    if keys == 'timm':
        build_timm(arch).load_state_dict(read_checkpoint(file), strict=True)


def _check_equal(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    differing = [key for key in {*wanted, *got} if key not in wanted or key not in got
                 or not torch.equal(wanted[key].cpu(), got[key].cpu())]  # fmt: skip
    if differing:
        raise ExportError(f'{len(differing)} tensors read back differ from the network, such as {sorted(differing)[0]}')


def read_subject(
    source: str, weights: str | None = None, out_indices: Sequence[int] | None = None, output_stride: int = 32
) -> Subject:
    """The network that a command line names: a whole model by its config or work dir, else a backbone.

    Args:
        source: A work dir, a ``.py`` file, or anything that `ArchSpec.parse` reads.
        weights: Its checkpoint.
        out_indices: Of a backbone alone, see `backbone_subject`.
        output_stride: Of a backbone alone.

    Raises as `model_subject` and `backbone_subject`, and:
        ValueError: Outputs or a stride of the backbone are asked of a whole model.
    """
    if Path(source).is_dir() or source.endswith('.py'):
        if out_indices is not None or output_stride != 32:
            raise ValueError(
                f'--out-indices and --output-stride are of a backbone, got {source}, a whole model, whose config says '
                'both: name its arch instead, <work dir>/derived/arch.json'
            )
        return model_subject(source, weights)
    return backbone_subject(source, weights, out_indices, output_stride)


def write_timm(subject: Subject, target: str | Path | None = None, overwrite: bool = False) -> str:
    """Writes the block strings of a backbone, once timm has built the same network of them; says so.

    Strings do not say all: beside them goes a module of the same name whose ``build()`` is the network in timm.

    Args:
        subject: The network.
        target: The file; ``None`` returns the strings before what is said.
        overwrite: Replace files that are there.

    Raises:
        ExportError: The backbone is none of ours, or timm builds another network.
        FileExistsError: A file is there.
        ValueError: The file's name is none of block strings.
    """
    if subject.arch is None:
        raise ExportError(f"block strings are of a backbone of ours, and this {subject.kind}'s is none")
    state = subject.backbone or None
    told, text = check_timm(subject.arch, state), subject.arch.format('timm')
    if target is None:
        return f'{text}\n{told}'
    module = timm_module(target)
    with verified(target, overwrite) as part, verified(module, overwrite) as code:
        code.write_text(timm_code(subject.arch, state), encoding='utf-8')
        check_timm(subject.arch, state, runpy.run_path(str(code))['build']())
        part.write_text(text + '\n', encoding='utf-8')
        if ArchSpec.parse(part.read_text(encoding='utf-8')) != subject.arch:
            raise ExportError('block strings read back describe another network')
    return f'{target}: {told}; build() in {module} does'
