"""The size of images in one variable, ``image_size = (height, width)``, and limits that follow the seed's cost.

Applied when a config is used (`mmnas_ext.runs.resolve`): in every pipeline of both halves, in the preprocessor, in the
windows of a test, and in the size at which costs are counted.
"""

import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mmnas_ext.archs import ArchSpec, price
from mmnas_ext.runs.halves import LOADERS, backbones_of, list_halves, models_of, tell, walk

_SMALLEST = 32  # pixels: a position of the coarsest feature
# arguments of transforms in pixels: (width, height), lists of these, and (height, width)
_WIDTH_FIRST = ('scale', 'img_scale')
_LISTS = ('scales',)
_HEIGHT_FIRST = ('crop_size',)
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
    """
    height, width = value
    former = _former_size(cfg)
    if former is None:
        return False
    ratios = height / former[0], width / former[1]
    loaders = [(name, half[name]) for half in list_halves(cfg) for name in LOADERS if half.get(name)]
    # halves may share their pipelines
    for part in {id(part): part for _, loader in loaders for part in walk(loader.get('dataset'))}.values():
        _scale(part, ratios)
    for name, loader in loaders if 'decode_head' in (cfg.get('model') or {}) else ():
        for part in walk(loader.get('dataset')) if name != LOADERS[0] else ():
            _resize_whole(part, (width, height))
    for model in models_of(cfg):
        preprocessor, tested = model.get('data_preprocessor') or {}, model.get('test_cfg') or {}
        for part, key in ((preprocessor, 'size'), (tested, 'crop_size'), (tested, 'stride')):
            if isinstance(part.get(key), list | tuple):
                part[key] = _crop(part[key], ratios)
    for backbone in backbones_of(cfg):
        if 'input_size' in backbone:
            tell('model.backbone.input_size', tuple(backbone['input_size']), (height, width))
            backbone['input_size'] = (height, width)
    return True


def settle_limits(cfg: Config) -> None:
    """Writes limits of the cost that are said by the seed's, ``max='seed'`` or ``max='0.8 seed'``, as numbers.

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
                full = _price_of_seed(backbone, limit, f'{name}.{key}')
                limit[key] = full * float(match[1]) if match[1] else full


def _price_of_seed(backbone: Mapping[str, Any], limit: Mapping[str, Any], name: str) -> float:
    """What the seed of a super-network costs, in the metric of a limit."""
    init = backbone.get('init_cfg')
    seed = init.get('seed') if isinstance(init, Mapping) else None
    if not isinstance(seed, Mapping) or seed.get('arch') is None:
        raise ValueError(f'{name} is said by the seed, and model.backbone.init_cfg has no seed=dict(arch=…)')
    size, stride = tuple(backbone.get('input_size', (800, 1088))), backbone.get('output_stride', 32)
    return price(ArchSpec.parse(seed['arch']), size, stride, limit.get('metric', 'macs'), limit.get('table'))


def _former_size(cfg: Config) -> tuple[float, float] | None:
    """Height and width that a config was written for."""
    for loader in reversed(LOADERS):
        for part in walk((cfg.get(loader) or {}).get('dataset')):
            if _name(part) == 'Resize' and _is_pair(part.get('scale')):
                return part['scale'][1], part['scale'][0]
    for backbone in backbones_of(cfg):
        if _is_pair(backbone.get('input_size')):
            return tuple(backbone['input_size'])
    return None


def _scale(part: dict[str, Any], ratios: tuple[float, float]) -> None:
    """Scales the arguments of a transform that are in pixels."""
    down, across = ratios
    for key in _WIDTH_FIRST:
        if _is_pair(part.get(key)):
            part[key] = (round(part[key][0] * across), round(part[key][1] * down))
    for key in _LISTS:
        if isinstance(part.get(key), list | tuple) and all(map(_is_pair, part[key])):
            part[key] = [(round(x * across), round(y * down)) for x, y in part[key]]
    for key in _HEIGHT_FIRST:
        if _is_pair(part.get(key)):
            part[key] = _crop(part[key], ratios)
    if _name(part) in _PADS and _is_pair(part.get('size')):
        part['size'] = _crop(part['size'], (across, down))


def _resize_whole(part: dict[str, Any], scale: tuple[int, int]) -> None:
    """Gives a pipeline that tests a segmentor a resizing, before the labels are loaded: they keep their size."""
    pipeline = part.get('pipeline')
    if not isinstance(pipeline, list | tuple) or any(_name(step) in _RESIZES for step in pipeline):
        return
    loads = [number for number, step in enumerate(pipeline) if _name(step) == 'LoadImageFromFile']
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


def _name(part: Any) -> str:
    return str(part.get('type')).rpartition('.')[2] if isinstance(part, Mapping) else ''
