"""Remapping as an ``init_cfg``: the backbone of any config can start from a seed."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import nn

from mmnas_ext.archs import ArchSpec, SearchSpace
from mmnas_ext.registry import WEIGHT_INITIALIZERS
from mmnas_ext.remap import policies
from mmnas_ext.remap.checkpoints import Seed, load_seed
from mmnas_ext.remap.download import locate
from mmnas_ext.remap.epsilon import apply_eps
from mmnas_ext.remap.mapping import remap
from mmnas_ext.remap.reader import PACKAGE
from mmnas_ext.remap.report import RemapReport

_SEED_KEYS = ('arch', 'checkpoint')


@WEIGHT_INITIALIZERS.register_module(name='Remapped')
class RemappedInit:
    """Initialises a module with a seed's remapped weights: ``init_cfg=dict(type='mmnas_ext.Remapped', seed=…)``.

    The module is an MBNet, with the architecture ``arch``, or a SuperNet, with the space ``space``. The seed is read
    when the weights are initialised, not when the module is built. The module's batch norms get the seed's epsilon, as
    `mmnas_ext.remap.epsilon` says.
    All layers of the module count as initialised afterwards, so MMEngine does not initialise them again.

    Args:
        seed: ``dict(checkpoint=…, arch=…)`` with the arguments of `load_seed` (``arch`` is optional), a path, a URL
            or a `Seed`.
        depth: As in `remap`.
        width: As in `remap`.
        kernel: As in `remap`.
        noise: As in `remap`.

    Raises:
        ValueError: `seed` has unknown keys or no ``checkpoint``, or a policy is unknown.
        TypeError: `seed` is of another type.
    """

    def __init__(
        self,
        seed: Any,
        depth: str = 'last',
        width: str = 'first',
        kernel: str = 'center',
        noise: float = 0.0,
    ) -> None:
        policies.check(depth, width, kernel)
        self.source, self.arch = _seed_arguments(seed)
        self.policies = dict(depth=depth, width=width, kernel=kernel)
        self.noise = noise

    def __call__(self, module: nn.Module) -> RemapReport:
        """Loads the remapped weights into `module`; returns the report of what was done to each tensor.

        Raises:
            TypeError: The module is not an MBNet or a SuperNet.
            ValueError: The seed cannot be read or does not fit.
        """
        target = _find_target(module)
        seed = self.read_seed()
        affine = bool(getattr(module, 'affine', False))
        state, report = remap(seed, target, **self.policies, noise=self.noise, affine=affine)
        _load(module, state)
        eps = apply_eps(module, seed.bn_eps, seed.eps_known, self._describe_source())
        children: Iterator[Any] = module.modules()
        for child in children:
            # MMEngine does not initialise a module that has this attribute
            if child is not module and hasattr(child, 'init_weights'):
                child.is_init = True
        name = type(module).__name__
        assumed = '' if seed.eps_known or eps != seed.bn_eps else ' (assumed, its file does not tell)'
        print_log(f'{name} from {self._describe_source()}, batch-norm eps {eps:g}{assumed}: {report}', logger='current')
        print_log(f'{name}, remapped tensors:\n{report.table()}', logger='current', level=logging.DEBUG)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'RemappedInit: remapped from {self._describe_source()}')
        return report

    def read_seed(self) -> Seed:
        """Reads the seed; one behind a URL is fetched, for which the processes wait for each other.

        Raises:
            FileNotFoundError: It does not exist.
            ValueError: It cannot be read, or belongs to another network.
            ConnectionError: The URL cannot be read.
        """
        return self.source if isinstance(self.source, Seed) else load_seed(self.source, self.arch)

    def seed_at_hand(self) -> Seed | None:
        """Reads the seed if it is on this machine; returns ``None`` for a URL that has not been fetched.

        Raises:
            FileNotFoundError: A file or a package does not exist.
            ValueError: It cannot be read, or belongs to another network.
        """
        source = self.source
        if isinstance(source, str) and '://' in source and not source.startswith(PACKAGE):
            file = locate(source)
            return load_seed(file, self.arch) if file.is_file() else None
        return self.read_seed()

    def _describe_source(self) -> str:
        return 'a `Seed` object' if isinstance(self.source, Seed) else str(self.source)


def _seed_arguments(seed: Any) -> tuple[Seed | str | Path, Any]:
    """Returns what to read and its architecture, if that is given."""
    if isinstance(seed, Seed | str | Path):
        return seed, None
    if not isinstance(seed, Mapping):
        raise TypeError(f'seed must be a dict of {_SEED_KEYS}, a path, a URL or a Seed, got {type(seed).__name__}')
    unknown = [key for key in seed if key not in _SEED_KEYS]
    if unknown or 'checkpoint' not in seed:
        raise ValueError(f"seed must have the key 'checkpoint' and may have 'arch', got the keys {list(seed)}")
    return seed['checkpoint'], dict(seed).get('arch')


def _find_target(module: nn.Module) -> ArchSpec | SearchSpace:
    """Returns the architecture or the space of a module."""
    for name in ('arch', 'space'):
        spec = getattr(module, name, None)
        if isinstance(spec, ArchSpec | SearchSpace):
            return spec
    raise TypeError(
        f"the module of init_cfg type 'Remapped' must be an MBNet or a SuperNet, got {type(module).__name__}"
    )


def _load(module: nn.Module, state: dict[str, Any]) -> None:
    """Loads all tensors; only the alphas of a super-network, and a head that was not built, may be missing."""
    built = module.state_dict().keys()
    if not any(name.startswith('head.') for name in built):
        state = {name: tensor for name, tensor in state.items() if not name.startswith('head.')}
    missing = [name for name in built if name not in state and not name.endswith('.alpha')]
    unexpected = [name for name in state if name not in built]
    if missing or unexpected:
        raise ValueError(
            f'{type(module).__name__} must have the tensors of its architecture (norm_cfg must be a batch norm): '
            f'not in the seed {missing[:2]}, not in the module {unexpected[:2]}'
        )
    module.load_state_dict(state, strict=False)
