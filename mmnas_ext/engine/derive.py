"""From a finished search to an ordinary config: nothing of the search is left in it."""

import copy
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.engine.limits import derive
from mmnas_ext.engine.optim import find_supernet
from mmnas_ext.registry import HOOKS, MODELS
from mmnas_ext.workdir import write_text

DERIVED_DIR = 'derived'
WEIGHTS_NAME = 'distilled.pth'
WEIGHTS = (None, 'distilled', 'remapped')
# a run's own affairs, which the second half settles anew
_RUN_KEYS = ('derived', 'random_search', 'work_dir', 'resume', 'load_from', 'launcher', 'experiment_name')
# what a distillation hands on
_SHARED_KEYS = ('env_cfg', 'log_level', 'randomness')
_SNAPSHOTS = 50
_SEARCH_CLASS = re.compile(r"'(?:mmnas_ext\.)?(SuperNet|Search\w+|DeriveHook)'")


def derived_config(cfg: Config, arch: ArchSpec) -> Config:
    """The config that trains a found network: the search's, changed by its ``derived=dict(…)``.

    ``train_cfg``, ``optim_wrapper`` and ``model.backbone`` in it replace those of the search whole; the rest is merged
    as in any config that inherits.

    Args:
        cfg: Config of the search; left as it is.
        arch: The found network, written into ``model.backbone.arch``; its batch-norm epsilon goes into the backbone's
            ``norm_cfg`` unless that has one.

    Raises:
        ValueError: `cfg` has no ``derived``, it does not go with the rest, or a class of the search remains.
    """
    if not cfg.get('derived'):
        raise ValueError('this config has no derived=dict(…): it describes no search')
    if is_distillation(cfg):
        return distilled_config(cfg, arch)
    derived = copy.deepcopy(cfg.derived.to_dict())
    plain = {key: value for key, value in copy.deepcopy(cfg.to_dict()).items() if key not in _RUN_KEYS}
    # what describes the search is replaced whole, everything else is merged
    for key in ('train_cfg', 'optim_wrapper'):
        if key in derived:
            plain.pop(key, None)
    if 'backbone' in derived.get('model', {}):
        plain['model'].pop('backbone', None)
    result = Config(plain)
    try:
        result.merge_from_dict(derived)
    except (TypeError, KeyError) as error:
        raise ValueError(f'derived=dict(…) cannot be merged into the rest of the config: {error}') from None
    backbone = result.model.backbone
    backbone.arch = arch.replace(bn_eps=None).format('fna')
    if arch.bn_eps is not None:
        backbone.norm_cfg = {'type': 'BN', 'eps': arch.bn_eps, **(backbone.get('norm_cfg') or {})}
    left = sorted(set(_SEARCH_CLASS.findall(result.pretty_text)))
    if left:
        raise ValueError(f'derived=dict(…) leaves {left} of the search in place: say there what replaces them')
    return result


def is_distillation(cfg: Config) -> bool:
    """Whether a config trains the blocks of a super-network to imitate a teacher."""
    return str((cfg.get('model') or {}).get('type')).rpartition('.')[2] == 'BlockDistiller'


def distilled_config(cfg: Config, arch: ArchSpec) -> Config:
    """The config that trains what a distillation found: that of ``derived=dict(config=FILE, …)``, with this backbone.

    A distillation shares no more than logging and the environment with what comes after it, so its ``derived`` names a
    whole config (relative to its own file; of a search, its second half is taken) and says what differs. The backbone
    there becomes an `MBNet` of the found network, and a neck's or head's ``in_channels`` those that it gives.
    ``weights`` says what it starts from: ``'distilled'`` weights, the seed ``'remapped'`` as that config says, or by
    default nothing, as in the paper.

    Args:
        cfg: Config of the distillation, ``work_dir`` set if its weights are to be used; left as it is.
        arch: The found network.

    Raises:
        ValueError: ``derived`` names no config or no such weights, or cannot be merged into it.
        FileNotFoundError: There is no such config.
    """
    derived = copy.deepcopy(cfg.derived.to_dict())
    name, weights = derived.pop('config', None), derived.pop('weights', None)
    derived.pop('name', None)
    if not isinstance(name, str):
        raise ValueError("derived of a distillation must name the config that trains what is found: dict(config='…')")
    if weights not in WEIGHTS:
        raise ValueError(f'derived.weights must be one of {WEIGHTS}, got {weights!r}')
    file = Path(str(cfg.filename or '')).parent / name
    if not file.is_file():
        raise FileNotFoundError(f'derived.config is {name}, and {file} does not exist')
    result = Config.fromfile(file)
    if result.get('derived'):
        result = derived_config(result, arch)
    result.merge_from_dict({key: cfg[key] for key in _SHARED_KEYS if key in cfg})
    try:
        result.merge_from_dict(derived)
    except (TypeError, KeyError) as error:
        raise ValueError(f'derived=dict(…) cannot be merged into {name}: {error}') from None
    backbone = result.model.backbone
    backbone.type = 'mmnas_ext.MBNet'
    backbone.arch = arch.format('fna')
    init = backbone.pop('init_cfg', None)
    if weights == 'remapped':
        if not is_remapped(init):
            raise ValueError(
                f"derived.weights='remapped' needs a backbone with a remapped seed in {name}, got {init!r}"
            )
        backbone.init_cfg = init
    elif weights == 'distilled':
        checkpoint = Path(str(cfg.get('work_dir') or ''), DERIVED_DIR, WEIGHTS_NAME)
        headless = arch.replace(head_channels=None).format('fna')
        backbone.init_cfg = dict(type='mmnas_ext.Remapped', seed=dict(arch=headless, checkpoint=str(checkpoint)))
    _fit_channels(result.model, MODELS.build({**backbone, 'init_cfg': None}).out_channels)
    return result


def _fit_channels(model: Any, channels: tuple[int, ...]) -> None:
    """Tells neck and head what the backbone gives, where they name channels of it."""
    neck: Any = model.get('neck') or {}
    head: Any = model.get('decode_head') or {}
    if isinstance(neck.get('in_channels'), list | tuple):
        neck.in_channels = list(channels)
    if 'in_index' in head and isinstance(head.get('in_channels'), int):
        head.in_channels = channels[head.in_index]
    if head.get('c1_in_channels'):
        head.c1_in_channels = channels[head.get('c1_in_index', 0)]


def write_derived(folder: Path, cfg: Config, arch: ArchSpec) -> None:
    """Writes ``arch.json``, then ``config.py``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / 'arch.json', arch.format('json'))
    write_text(folder / 'config.py', derived_config(cfg, arch).pretty_text)


@HOOKS.register_module()
class DeriveHook(Hook):
    """Writes the network that the search has found.

    At its end ``derived/arch.json`` and ``derived/config.py``; along the way a snapshot of what it would be,
    ``derived/snapshots/epoch_<n>.json`` (of an iteration loop: ``iter_<n>.json``).

    Args:
        interval: Epochs (of an iteration loop: iterations) from one snapshot to the next; by default 1 epoch, or a
            fiftieth of all iterations.
    """

    priority = 'LOW'

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        """Makes sure that there will be a config to write."""
        derived_config(runner.cfg, self._arch(runner))

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Writes a snapshot."""
        if _counts_epochs(runner) and self.every_n_epochs(runner, self.interval or 1):
            self._snapshot(runner, f'epoch_{runner.epoch + 1}')

    @master_only
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Writes a snapshot in an iteration loop."""
        if _counts_epochs(runner):
            return
        interval = self.interval or max(1, runner.max_iters // _SNAPSHOTS)
        if self.every_n_train_iters(runner, interval):
            self._snapshot(runner, f'iter_{runner.iter + 1}')

    @master_only
    def after_train(self, runner: Any) -> None:
        """Writes the found network and its config."""
        arch = self._arch(runner)
        folder = Path(runner.work_dir) / DERIVED_DIR
        write_derived(folder, runner.cfg, arch)
        supernet = find_supernet(runner.model)
        costs = runner.optim_wrapper.cost.describe(arch, supernet.input_size, supernet.output_stride)
        runner.logger.info(
            f'found {arch.format("fna")}: {costs}; written to {folder / "arch.json"} and {folder / "config.py"}'
        )

    def _snapshot(self, runner: Any, name: str) -> None:
        path = Path(runner.work_dir) / DERIVED_DIR / 'snapshots' / f'{name}.json'
        write_text(path, self._arch(runner).format('json'))

    def _arch(self, runner: Any) -> ArchSpec:
        wrapper = runner.optim_wrapper
        return derive(find_supernet(runner.model), wrapper.cost.limit, wrapper.prices)


def _counts_epochs(runner: Any) -> bool:
    # an iteration loop calls the epoch hooks as well, once
    return isinstance(runner.train_loop, EpochBasedTrainLoop)
