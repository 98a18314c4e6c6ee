"""The size of images in one variable, ``image_size = (height, width)``, and limits that follow the seed's cost.

Applied when a config is used (`mmnas_ext.runs.resolve`): in every pipeline of both halves, in the preprocessor, in the
windows of a test, and in the size at which costs are counted.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mmnas_ext.archs import ArchSpec, price
from mmnas_ext.registry import name_of
from mmnas_ext.runs.halves import (
    LOADERS,
    backbones_of,
    counted_at,
    host_of,
    list_halves,
    models_of,
    seed_arch,
    tell,
    walk,
)

_SMALLEST = 32  # pixels: a position of the coarsest feature
# arguments of transforms in pixels: (width, height), one number or a list of these; lists of these; what may be
# negative; and (height, width)
_WIDTH_FIRST = ('scale', 'img_scale')
_LISTS = ('scales',)
_BORDERS = ('border',)
_HEIGHT_FIRST = ('crop_size',)
_WIDTH_FIRST_CROP = ('mmdet', 'RandomCrop')  # the one exception
_SHORTEST = 'ResizeShortestEdge'  # its numbers are edges of an image, whichever is the shorter
_PADS = ('Pad',)  # their `size` is (width, height)
_RESIZES = ('Resize', 'RandomResize', 'RandomChoiceResize')
_LIMITS = ('target', 'max', 'min')
_OF_SEED = re.compile(r'(?:(\d*\.?\d+) )?seed')


def check_image_size(value: Any) -> None:
    """Raises ValueError for a value of ``image_size`` that is no height and width."""
    pair = value if isinstance(value, list | tuple) and len(value) == 2 else ()
    if not pair or not all(type(side) is int and side >= _SMALLEST for side in pair):
        raise ValueError(f'image_size must be (height, width) of at least {_SMALLEST} pixels, got {value!r:.80}')


def apply_image_size(cfg: Config, value: Any) -> bool:
    """Scales all that a config says in pixels; returns whether anything does.

    The size that it was written for is that of the resizing in its test pipeline, else ``model.backbone.input_size``.
    A segmentor whose test images are not resized gets such a step: predictions are resized back by the host.

    Args:
        cfg: The config; changed.
        value: Its ``image_size``: height and width in pixels.

    Raises:
        ValueError: The size of a resizing is in no form that is known, or SSD's anchors cannot be scaled.
    """
    height, width = value
    former = former_size(cfg)
    if former is None:
        return False
    ratios = height / former[0], width / former[1]
    loaders = [(name, half[name]) for half in list_halves(cfg) for name in LOADERS if half.get(name)]
    # halves may share their pipelines
    loaded = [part for _, loader in loaders for part in walk(loader.get('dataset'))]
    loaded += [part for half in list_halves(cfg) for part in walk(_switched(half))]
    for part in {id(part): part for part in loaded}.values():
        _scale(part, former, (height, width), host_of(cfg))
    for name, loader in loaders if 'decode_head' in (cfg.get('model') or {}) else ():
        for part in walk(loader.get('dataset')) if name != LOADERS[0] else ():
            _resize_whole(part, (width, height))
    for model in models_of(cfg):
        preprocessor, tested = model.get('data_preprocessor') or {}, model.get('test_cfg') or {}
        for part, key in ((preprocessor, 'size'), (tested, 'crop_size'), (tested, 'stride')):
            if isinstance(part.get(key), list | tuple):
                part[key] = _crop(part[key], ratios)
        for part in walk(model.get('bbox_head')):
            if 'SSD' in name_of(part.get('anchor_generator')):
                _scale_anchors(part['anchor_generator'], (height, width))
    for backbone in backbones_of(cfg):
        if 'input_size' in backbone:
            tell('model.backbone.input_size', tuple(backbone['input_size']), (height, width))
            backbone['input_size'] = (height, width)
    return True


def _switched(half: Mapping[str, Any]) -> list[Any]:
    """Pipelines that hooks put in the place of the loader's, as the last epochs of RTMDet and YOLOX do."""
    hooks = half.get('custom_hooks') or ()
    return [hook.get('switch_pipeline') for hook in hooks if isinstance(hook, Mapping)]


def settle_limits(cfg: Config, added: Callable[[Config, str], float] = lambda _cfg, _metric: 0) -> None:
    """Writes limits of the cost that are said by the seed's, ``max='seed'`` or ``max='0.8 seed'``, as numbers.

    Args:
        cfg: The config; changed.
        added: What a limit means beside the backbone, in a metric.

    Raises:
        ValueError: The config has no seed whose architecture is known.
    """
    places = {'cost': cfg.get('optim_wrapper'), 'limit': cfg.get('random_search')}
    limits: dict[str, Any] = {name: owner.get(name) for name, owner in places.items() if isinstance(owner, Mapping)}
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    for name, limit in limits.items():
        for key in _LIMITS if isinstance(limit, dict) else ():
            match = _OF_SEED.fullmatch(limit[key]) if isinstance(limit.get(key), str) else None
            if match is not None:
                full = _price_of_seed(backbone, limit, f'{name}.{key}') + added(cfg, limit.get('metric', 'macs'))
                limit[key] = full * float(match[1]) if match[1] else full


def _price_of_seed(backbone: Mapping[str, Any], limit: Mapping[str, Any], name: str) -> float:
    """What the seed of a super-network costs, in the metric of a limit."""
    arch = seed_arch(backbone)
    if arch is None:
        raise ValueError(f'{name} is said by the seed, and model.backbone.init_cfg has no seed=dict(arch=…)')
    return price(ArchSpec.parse(arch), *counted_at(backbone), limit.get('metric', 'macs'), limit.get('table'))


def scaled_pipeline(
    pipeline: Any, former: tuple[float, float], old: tuple[int, int], new: tuple[int, int], host: str
) -> list[Any]:
    """A copy of a pipeline that was written for images of one size, for those of another.

    Args:
        pipeline: Its transforms, a list of configs.
        former: Height and width in them.
        old: Height and width at which networks are priced with it.
        new: The same of what it becomes.
        host: The package whose transforms they are.

    Raises:
        ValueError: The size of a resizing is in no form that is known.
    """
    found = copy.deepcopy(list(pipeline))
    height, width = (round(side * each / known) for side, each, known in zip(former, new, old, strict=True))
    for part in walk(found):
        _scale(part, former, (height, width), host)
    return found


def former_size(cfg: Config) -> tuple[float, float] | None:
    """Height and width that a config was written for."""
    for loader in reversed(LOADERS):
        for part in walk((cfg.get(loader) or {}).get('dataset')):
            if name_of(part) == 'Resize' and _is_pair(part.get('scale')):
                return part['scale'][1], part['scale'][0]
    for backbone in backbones_of(cfg):
        if _is_pair(backbone.get('input_size')):
            return tuple(backbone['input_size'])
    return None


def _scale(part: dict[str, Any], former: tuple[float, float], size: tuple[int, int], host: str) -> None:
    """Scales the arguments of a transform of a host that are in pixels; sizes are height and width.

    Raises:
        ValueError: The size of a resizing is in no form that is known.
    """
    down, across = size[0] / former[0], size[1] / former[1]
    edges = min(size) / min(former), max(size) / max(former)
    kind = name_of(part)
    shortest = _SHORTEST in (kind, part.get('resize_type'))
    for key in (*_WIDTH_FIRST, *_LISTS):
        given, resizes = part.get(key), 'Resize' in kind and 'Crop' not in kind
        if given is None or (type(given) is int and not resizes):
            continue
        listed = key in _LISTS and isinstance(given, list)  # of two numbers, too: no width and height
        scaled = _map(given, listed, lambda each: _edges(each, edges) if shortest else _pair_of(each, across, down))
        if scaled is None and resizes:
            raise ValueError(
                f'image_size cannot scale {key}={given!r:.80} of the transform {kind}: write whole numbers of pixels, '
                '(width, height), or leave image_size out and write all sizes'
            )
        if scaled is not None:
            part[key] = scaled
    if shortest and type(part.get('max_size')) is int:
        part['max_size'] = round(part['max_size'] * edges[1])
    for key in _BORDERS:
        if _is_pair(part.get(key)):
            part[key] = (round(part[key][0] * across), round(part[key][1] * down))
    for key in _HEIGHT_FIRST:
        if _is_pair(part.get(key)):
            flipped = (host, kind) == _WIDTH_FIRST_CROP
            part[key] = _crop(part[key], (across, down) if flipped else (down, across))
    if kind in _PADS and _is_pair(part.get('size')):
        part['size'] = _crop(part['size'], (across, down))


def _scale_anchors(generator: Any, size: tuple[int, int]) -> None:
    """Makes SSD's anchors, which are as large as images and lie on as many positions, those of images of another size.

    Strides are images' sides over features' sides, each feature half of the one before: 16 32 64 107 160 320 at 320.

    Args:
        generator: Config of the anchors; changed.
        size: Height and width of the images.

    Raises:
        ValueError: They are for another size, and do not say sizes, or have strides of another kind.
    """
    strides = list(generator.get('strides') or ())
    former = generator.get('input_size')
    if 'min_sizes' in generator and all(type(stride) is int for stride in strides):
        former = strides[-1] if _halved(strides[-1], strides[0], len(strides)) == strides else None
    if size == (former, former):
        return
    if former is None or 'min_sizes' not in generator:
        raise ValueError(
            f'image_size cannot scale the anchors of {name_of(generator)} for {size[0]}x{size[1]} pixels: leave it '
            'out, and write strides, min_sizes and max_sizes for these images'
        )
    tall, wide = (_halved(side, strides[0], len(strides)) for side in size)
    generator['strides'] = tall if size[0] == size[1] else list(zip(wide, tall, strict=True))
    ratio = math.sqrt(size[0] * size[1]) / former
    for key in ('min_sizes', 'max_sizes'):
        generator[key] = [round(side * ratio) for side in generator[key]]


def _halved(side: int, stride: int, levels: int) -> list[int]:
    """Strides of features of which each has half of the positions of the one before, rounded up."""
    positions, found = -(-side // stride), []
    for _ in range(levels):
        found.append(round(side / positions))
        positions = -(-positions // 2)
    return found


def _map(value: Any, listed: bool, scaled: Callable[[Any], Any]) -> Any:
    """A scale, or a list of these, in the new size; ``None`` if one is in no form that is known."""
    if type(value) is int or (_is_pair(value) and not listed):
        return scaled(value)
    found = [scaled(each) for each in value] if isinstance(value, list | tuple) else [None]
    return None if None in found else found


def _pair_of(value: Any, across: float, down: float) -> tuple[int, int] | None:
    """Width and height in the new size; one number is a square's."""
    first, second = value if _is_pair(value) else (value, value)
    return (round(first * across), round(second * down)) if type(first) is int else None


def _edges(value: Any, ratios: tuple[float, float]) -> Any:
    """The length of the shorter edge in the new size; of a pair both edges."""
    if type(value) is int:
        return round(value * ratios[0])
    if not _is_pair(value):
        return None
    shorter, longer = min(value) * ratios[0], max(value) * ratios[1]
    return tuple(map(round, (shorter, longer) if value[0] == min(value) else (longer, shorter)))


def _resize_whole(part: dict[str, Any], scale: tuple[int, int]) -> None:
    """Gives a pipeline that tests a segmentor a resizing, before the labels are loaded: they keep their size."""
    pipeline = part.get('pipeline')
    if not isinstance(pipeline, list | tuple) or any(name_of(step) in _RESIZES for step in pipeline):
        return
    loads = [number for number, step in enumerate(pipeline) if name_of(step) == 'LoadImageFromFile']
    if loads:
        step = ConfigDict(type='Resize', scale=scale, keep_ratio=True)
        part['pipeline'] = [*pipeline[: loads[0] + 1], step, *pipeline[loads[0] + 1 :]]


def _crop(size: Any, ratios: tuple[float, float]) -> tuple[int, int]:
    """A window of another size, in whole positions of the coarsest feature."""
    first, second = (
        max(_SMALLEST, round(side * ratio / _SMALLEST) * _SMALLEST) for side, ratio in zip(size, ratios, strict=True)
    )
    return first, second


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(each) is int for each in value)
