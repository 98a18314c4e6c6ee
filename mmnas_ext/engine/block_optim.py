"""An optimizer and a schedule for each block of a distillation, stepped after one backward pass over all of them."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.optim import NonFiniteLossError
from mmnas_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS

_KEYS = ('type', 'optimizer', 'clip_grad', 'paramwise_cfg', 'blocks', 'amp', 'loss_scale', 'dtype')
_BLOCK_KEYS = ('optimizer', 'clip_grad', 'paramwise_cfg')
_PLAIN_TYPE, _AMP_TYPE = 'OptimWrapper', 'AmpOptimWrapper'


class BlockOptimWrapper(OptimWrapperDict):
    """One optimizer per block, ``block<k>``; MMEngine schedules each by itself.

    Blocks share no parameters, so the gradient of the sum of their losses is each one's own. In mixed precision one
    scaler serves all: it scales that sum.

    Args:
        device: Type of the device that trains.
        amp: Whether to train in mixed precision.
        dtype: Precision of it.
        loss_scale: As MMEngine's ``AmpOptimWrapper`` has it: ``'dynamic'``, a fixed scale, or the scaler's arguments.
        wrappers: Wrappers by name.
    """

    def __init__(
        self, device: str, amp: bool, dtype: torch.dtype, loss_scale: Any = 'dynamic', **wrappers: OptimWrapper
    ) -> None:
        super().__init__(**wrappers)
        self.device, self.amp, self.dtype = device, amp, dtype
        self.fixed_scale = None if loss_scale == 'dynamic' or isinstance(loss_scale, Mapping) else float(loss_scale)
        scale = dict(loss_scale) if isinstance(loss_scale, Mapping) else {}
        if self.fixed_scale is not None:
            scale = {'init_scale': self.fixed_scale}
        self.scaler = torch.amp.GradScaler(device, enabled=amp and dtype is torch.float16, **scale)
        for name, wrapper in wrappers.items():
            if hasattr(wrapper, 'grad_name'):
                wrapper.grad_name = f'{wrapper.grad_name}_{name}'

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Mixed precision, if it is asked for, around the forward."""
        del model
        with torch.autocast(self.device, self.dtype, enabled=self.amp):
            yield

    def update_params(
        self, loss: Tensor, step_kwargs: dict[str, Any] | None = None, zero_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Computes all gradients at once, then clips and steps block by block.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. No parameter was changed by it.
        """
        del step_kwargs, zero_kwargs
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f'a distillation step gave loss {loss.item()}')
        self.scaler.scale(loss).backward()
        for wrapper in self.values():
            if any(p.grad is not None for group in wrapper.param_groups for p in group['params']):
                # a wrapper passes for its optimizer: its step clips, is counted by schedulers, and is left out where
                # scaled gradients have overflowed
                self.scaler.unscale_(wrapper)
                self.scaler.step(wrapper)
            else:
                wrapper.step()  # takes no part, and schedulers want to see a step all the same
        self.scaler.update(self.fixed_scale)
        self.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The optimizers' states by block, and the scaler's."""
        return {**super().state_dict(), 'scaler': self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        states = dict(state_dict)
        self.scaler.load_state_dict(states.pop('scaler', {}) or self.scaler.state_dict())
        super().load_state_dict(states)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BlockOptimWrapperConstructor:
    """Builds a `BlockOptimWrapper`: the same settings for every block, unless ``blocks`` says otherwise.

    Args:
        optim_wrapper_cfg: ``optimizer`` and ``clip_grad`` as MMEngine has them; ``blocks={k: dict(…)}`` says what
            differs for block k, ``dict(optimizer=dict(lr=…))``; ``amp=True`` (or ``type='AmpOptimWrapper'``) trains in
            mixed precision, ``dtype='float16'`` or ``'bfloat16'``, with MMEngine's ``loss_scale``.
        paramwise_cfg: MMEngine's, for every block.

    Raises:
        ValueError: A key is missing or unknown, a value is out of its range, or the model is no `BlockDistiller`.
        TypeError: A value has another type.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        unknown = sorted(set(cfg) - set(_KEYS))
        if unknown or 'optimizer' not in cfg:
            raise ValueError(
                f'optim_wrapper of a distillation takes {_KEYS} and needs optimizer; unknown {unknown}, got {list(cfg)}'
            )
        if not isinstance(cfg['optimizer'], Mapping) or 'type' not in cfg['optimizer']:
            raise TypeError(f"optim_wrapper.optimizer must be dict(type='…', …), got {cfg['optimizer']!s:.100}")
        kind = cfg.pop('type', None) or _PLAIN_TYPE
        kind = getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]
        if kind not in (_PLAIN_TYPE, _AMP_TYPE):
            raise ValueError(f'optim_wrapper.type of a distillation must be {_PLAIN_TYPE} or {_AMP_TYPE}, got {kind}')
        self.amp = bool(cfg.pop('amp', False)) or kind == _AMP_TYPE
        scale = cfg.pop('loss_scale', None)
        self.loss_scale = _check_scale('dynamic' if scale is None else scale)
        dtype = cfg.pop('dtype', 'float16')
        if dtype not in ('float16', 'bfloat16'):
            raise ValueError(f"dtype must be 'float16' or 'bfloat16', got {dtype!r}")
        self.dtype = getattr(torch, dtype)
        self.overrides = _check_overrides(cfg.pop('blocks', None) or {})
        if paramwise_cfg:
            cfg['paramwise_cfg'] = copy.deepcopy(dict(paramwise_cfg))
        self.cfg = cfg

    def __call__(self, model: nn.Module) -> BlockOptimWrapper:
        """Builds the wrapper for `model`."""
        distiller = find_distiller(model)
        count = len(distiller.blocks)
        wrong = [index for index in self.overrides if not 0 <= index < count]
        if wrong:
            raise ValueError(f'optim_wrapper.blocks must name blocks in 0..{count - 1}, got {wrong[0]}')
        wrappers = {}
        for index, block in enumerate(distiller.all_blocks()):
            cfg = _merge(self.cfg, self.overrides.get(index, {}))
            wrappers[f'block{index}'] = _build_wrapper(block, dict(cfg, type='OptimWrapper'))
        device = next(distiller.parameters()).device.type
        return BlockOptimWrapper(device, self.amp, self.dtype, self.loss_scale, **wrappers)


def _check_scale(scale: Any) -> Any:
    """Returns ``loss_scale``.

    Raises:
        TypeError: It is none of what MMEngine takes.
    """
    if scale == 'dynamic' or isinstance(scale, Mapping):
        return scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
        raise TypeError(f"loss_scale must be 'dynamic', a positive number or dict(init_scale=…), got {scale!r}")
    return scale


def _check_overrides(blocks: Any) -> dict[int, dict[str, Any]]:
    """Returns what differs per block.

    Raises:
        TypeError: A value is not a dict.
        ValueError: A key is not the index of a block, or not among those that a block can have.
    """
    found = {}
    for key, value in dict(blocks).items() if isinstance(blocks, Mapping) else [('', blocks)]:
        if not isinstance(value, Mapping):
            raise TypeError(f'optim_wrapper.blocks must be {{k: dict(…)}}, got {blocks!s:.100}')
        unknown = [name for name in value if name not in _BLOCK_KEYS]
        if unknown or not str(key).isdecimal():
            raise ValueError(
                f'optim_wrapper.blocks must have indices of blocks, each with some of {_BLOCK_KEYS}, got {key!r} with '
                f'{list(value)}'
            )
        found[int(key)] = copy.deepcopy(dict(value))
    return found


def _merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a block's settings: its own entries over the common ones; an optimizer of another type stands alone."""
    merged = copy.deepcopy(dict(common))
    for key, value in own.items():
        base = merged.get(key)
        if isinstance(value, Mapping) and isinstance(base, Mapping):
            other = value.get('type', base.get('type')) != base.get('type')
            value = dict(value) if other else {**base, **value}
        merged[key] = copy.deepcopy(value)
    return merged


def _build_wrapper(block: nn.Module, cfg: dict[str, Any]) -> OptimWrapper:
    """Builds a block's wrapper; its groups hold all of the block's parameters, whether this process trains them or not.

    With ``paramwise_cfg``, MMEngine leaves out what needs no gradient, logs a line per parameter and makes each a group
    of its own: thousands here, which an optimizer steps through one by one. Groups with equal settings are joined.
    """
    logger = MMLogger.get_current_instance()
    flags = [(p, p.requires_grad) for p in block.parameters()]
    level = logger.level
    block.requires_grad_(True)
    logger.setLevel(logging.ERROR)
    try:
        wrapper = build_optim_wrapper(block, cfg)
    finally:
        logger.setLevel(level)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    _join_groups(wrapper.optimizer)
    return wrapper


def _join_groups(optimizer: Optimizer) -> None:
    joined: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        settings = repr(sorted((key, value) for key, value in group.items() if key != 'params'))
        joined.setdefault(settings, {**group, 'params': []})['params'].extend(group['params'])
    optimizer.param_groups[:] = joined.values()


def find_distiller(model: nn.Module) -> BlockDistiller:
    """The distiller inside a model, wrapped or not.

    Raises:
        ValueError: The model is no distiller.
    """
    module = model.module if is_model_wrapper(model) else model
    if not isinstance(module, BlockDistiller):
        raise ValueError(
            f"a distillation needs model=dict(type='mmnas_ext.BlockDistiller', …), got {type(module).__name__}"
        )
    return module
