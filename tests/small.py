"""Every config of ours, and the one override that lets it take a step on a CPU within a second or two."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmnas_ext.runs.resolve import resolve

FOLDER = Path(__file__).resolve().parents[1] / 'configs'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
CROP = (64, 64)


@cache
def _parse(name: str) -> Config:
    return resolve(Config.fromfile(FOLDER / name))


def read(name: str) -> Config:
    """Returns a config of ours as it runs, to change as one likes; parsed once: a base of a host takes a second."""
    return copy.deepcopy(_parse(name))


def small(cfg: Config) -> Config:
    """The override: no download, no process group, small images. All else is the config's."""
    cfg.model.backbone.init_cfg = None
    if cfg.optim_wrapper.get('keep_seed'):
        cfg.optim_wrapper.keep_seed = 0.0  # there is no seed now
    _without_groups(cfg.model)
    if cfg.model.data_preprocessor.get('size'):
        cfg.model.data_preprocessor.size = CROP
    return cfg


def _without_groups(part: Any) -> None:
    """Makes every SyncBN a BN: the former needs a process group to train."""
    if isinstance(part, dict):
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
        for inner in part.values():
            _without_groups(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            _without_groups(inner)
