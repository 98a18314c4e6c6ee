"""A config read from its file: whatever is wrong with it is said in one sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmnas_ext.runs.changes import RUNNER_KEYS
from mmnas_ext.runs.host_choices import CHOSEN
from mmnas_ext.runs.host_choices import KEY as HOSTS
from mmnas_ext.runs.imitating import KEY
from mmnas_ext.runs.keys import near
from mmnas_ext.runs.method import FINDERS
from mmnas_ext.runs.resolve import VARIABLES, resolve
from mmnas_ext.shipped import find_config, teach_mmengine

# keys of a config that the run reads, and MMEngine's Runner does not
_OUR_KEYS = (
    *VARIABLES, HOSTS, CHOSEN, *FINDERS, 'derived', 'work_dir', 'resume', 'launcher', 'experiment_name',
    'custom_imports', 'activation_checkpointing', 'efficient_conv_bn_eval',
)  # fmt: skip


_OF_A_RUN = ('work_dir', 'resume', 'launcher')
# what a distillation's `derived` says beside
_OF_DERIVED = ('config', 'weights', 'name')


def check_halves(cfg: Config) -> None:
    """Raises ValueError for a key of ``derived``, or of a random search's ``trial``, that nothing reads.

    A distillation's ``derived`` changes a config of its own, whose variables are not known here: of it a key is refused
    that is near to one that is read.
    """
    derived = cfg.get('derived') or {}
    parts = {'derived': derived, 'random_search.trial': (cfg.get('random_search') or {}).get('trial') or {}}
    known = sorted({*cfg, *RUNNER_KEYS, *_OUR_KEYS, *_OF_DERIVED, KEY})
    for place, part in parts.items():
        for key in part if isinstance(part, Mapping) else ():
            hint = near(key, known)
            if key in _OF_A_RUN:
                raise ValueError(f'{place}.{key} has no effect: it is of the whole run, set {key} beside {place}')
            if key not in known and (hint or 'config' not in derived):
                raise ValueError(f'{place}.{key} has no effect: nothing reads a key of this name{hint}')


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Reads a config, its variables and options applied (`mmnas_ext.runs.resolve`).

    Args:
        path: The file, or the name of a config that comes with the package where there is no such file.
        options: Values by dotted key.

    Raises:
        FileNotFoundError: There is no such file and no such name, or no file where a variable of the config says.
        ValueError: It cannot be read, an option does not go with it or has no effect, or a part is no mapping.
    """
    path = find_config(path)
    teach_mmengine()
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # it is a program: anything may come out of it
        raise ValueError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    options = dict(options or {})
    known = {*cfg, *RUNNER_KEYS, *_OUR_KEYS}
    for key in options:
        first = key.partition('.')[0]
        if first not in known:
            raise ValueError(
                f'--cfg-options: {key} has no effect, this config has no {first}{near(first, sorted(known))}'
            )
    try:
        resolve(cfg, options)
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f'--cfg-options do not go with {path}: {type(error).__name__}: {error}') from error
    return cfg
