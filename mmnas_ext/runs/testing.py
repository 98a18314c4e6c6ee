"""A test of a trained network: with every tensor of its checkpoint, on the classes that it was trained for."""

import copy
from typing import Any

from mmengine.config import Config

from mmnas_ext.datasets.inspect import random_states_kept
from mmnas_ext.runs.building import built, read_loader, warn
from mmnas_ext.runs.checks import check_data, check_work_dir
from mmnas_ext.runs.classes import check_heads
from mmnas_ext.runs.halves import TESTED
from mmnas_ext.runs.keys import check_keys, check_shape
from mmnas_ext.runs.loading import check_tested
from mmnas_ext.runs.prepared import Prepared, scope_of
from mmnas_ext.runs.training import open_runner


def check_test(cfg: Config, checkpoint: str) -> Prepared:
    """Raises one clear error for what a test would fail of, or pass over in silence; builds what the test uses.

    Args:
        cfg: The config that trained the network.
        checkpoint: The file.

    Returns:
        What was built, for `run_test`.

    Raises:
        ValueError: The config is of a search or tests nothing, the checkpoint is of another model or other classes.
        FileNotFoundError: The checkpoint, or data, do not exist.
    """
    check_shape(cfg)
    if cfg.get('derived'):
        raise ValueError('this config describes a search: test what it wrote, <work dir>/derived/config.py')
    lacking = [name for name in TESTED if cfg.get(name) is None]
    if lacking:
        raise ValueError(f'a config must have {", ".join(TESTED)} to be tested, this one lacks {", ".join(lacking)}')
    check_keys(cfg)
    check_data(cfg, ('test_dataloader',))
    if cfg.get('work_dir'):
        check_work_dir(cfg.work_dir)
    prepared = Prepared()
    with built('model'):
        model = prepared.model(cfg, keep=True)
    check_tested(model, checkpoint)
    with random_states_kept(), scope_of(cfg):
        dataset, _ = read_loader(cfg, 'test_dataloader', prepared, '')
        check_heads(model, {'test': dataset})
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    unused = check_tested(model, checkpoint, classes)
    if unused:
        warn(unused)
    return prepared


def run_test(cfg: Config, checkpoint: str, prepared: Prepared) -> dict[str, Any]:
    """Tests a checkpoint; returns its metrics by name.

    Args:
        cfg: As in `check_test`.
        checkpoint: The file.
        prepared: What `check_test` has built.
    """
    cfg = copy.deepcopy(cfg)
    cfg.load_from = checkpoint
    with open_runner(cfg, prepared=prepared) as runner:
        metrics: dict[str, Any] = runner.test()
    return metrics
