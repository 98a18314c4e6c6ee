"""``init_cfg=dict(type='Pretrained')`` of our backbones: read without running code, epsilon included, and complete."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmnas_ext.registry import WEIGHT_INITIALIZERS
from mmnas_ext.remap.epsilon import apply_eps
from mmnas_ext.remap.loading import load_from_our_reader, strip_prefix

_COUNTER = 'num_batches_tracked'
_OWN = ('.alpha',)  # what no checkpoint of a single network has


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class SafePretrained:
    """Initialises a module with its own weights from a checkpoint, as MMEngine's ``Pretrained`` does.

    It differs in three ways. No code in the file runs. The batch norms' epsilon that the file notes comes along with
    a prefix too. And the module is complete afterwards: MMEngine warns of tensors that are missing or of another shape
    and leaves them as they were, which is another network. Our backbones take it for MMEngine's; for any other module
    write ``type='mmnas_ext.Pretrained'``.

    Args:
        checkpoint: A path, a URL, a model name as in `load_seed`.
        prefix: Prefix of the module's keys in the file: ``'backbone.'`` for the backbone of a detector.
        map_location: As in `torch.load`.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: Any = 'cpu') -> None:
        self.checkpoint, self.map_location = checkpoint, map_location
        self.prefix = '' if not prefix else prefix if prefix.endswith('.') else f'{prefix}.'

    def __call__(self, module: nn.Module) -> None:
        """Loads the weights into `module`.

        Raises:
            CheckpointError: The file cannot be read or is refused.
            ValueError: It lacks tensors of the module, or has them in other shapes.
            FileNotFoundError: There is no such file.
            ConnectionError: The URL cannot be read.
        """
        print_log(f'load {self.prefix or "all"} of {self.checkpoint}', logger='current')
        content = load_from_our_reader(self.checkpoint, self.map_location)
        state = content.get('state_dict', content)
        if not isinstance(state, Mapping):
            raise ValueError(f'checkpoint {self.checkpoint} must hold a state dict, got {type(state).__name__}')
        state = strip_prefix(state, 'module.') if any(key.startswith('module.') for key in state) else state
        state = strip_prefix(state, self.prefix) if self.prefix else state
        self._check(module, state)
        load_state_dict(module, state, strict=False, logger='current')
        noted = (getattr(state, '_metadata', None) or {}).get('', {})
        if isinstance(noted.get('bn_eps'), float):
            known = not noted.get('bn_eps_assumed', False)
            eps = apply_eps(module, noted['bn_eps'], known, str(self.checkpoint))
            print_log(f'batch-norm eps {eps:g}', logger='current', level=logging.DEBUG)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Pretrained: load from {self.checkpoint}')

    def _check(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Raises ValueError unless the module finds all that it has."""
        own = {k: v for k, v in module.state_dict().items() if not k.endswith(_COUNTER) and not k.endswith(_OWN)}
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        missing = [key for key in own if key not in tensors]
        other = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
        if not missing and not other:
            return
        name, where = type(module).__name__, f'{self.checkpoint}' + (f', prefix {self.prefix!r}' if self.prefix else '')
        if len(missing) == len(own):
            hint = "prefix='backbone.'" if any(k.startswith('backbone.') for k in tensors) else 'mmnas_ext.Remapped'
            raise ValueError(
                f'init_cfg Pretrained ({where:.120}) has no tensor of {name}, its first are {list(tensors)[:2]!r:.60}; '
                f'{hint} may be what is meant'
            )
        key = (missing or other)[0]
        got = 'lacks it' if missing else f'has it as {tuple(tensors[key].shape)}'
        raise ValueError(
            f'init_cfg Pretrained ({where:.120}) must be of this very {name}: it has {key} as '
            f'{tuple(own[key].shape)}, the file {got} ({len(missing)} missing, {len(other)} of other shapes)'
        )
