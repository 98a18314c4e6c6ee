"""An optimizer and a schedule for each block of a distillation, stepped after one backward pass over all of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn

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
        wrappers: Wrappers by name.
    """

    def __init__(self, device: str, amp: bool, dtype: torch.dtype, **wrappers: OptimWrapper) -> None:
        super().__init__(**wrappers)
        self.device, self.amp, self.dtype = device, amp, dtype
        self.scaler = torch.amp.GradScaler(device, enabled=amp and dtype is torch.float16)
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
        self.scaler.update()
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
        optim_wrapper_cfg: ``optimizer`` and ``clip_grad`` as MMEngine has them; ``blocks={k: dict(…)}`` overrides them
            for block k, and ``paramwise_cfg`` as well; ``amp=True`` (or ``type='AmpOptimWrapper'``) trains in mixed
            precision, ``dtype='float16'`` or ``'bfloat16'``.
        paramwise_cfg: MMEngine's, for every block.

    Raises:
        ValueError: A key is missing or unknown, or the model is no `BlockDistiller`.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        unknown = sorted(set(cfg) - set(_KEYS))
        if unknown or 'optimizer' not in cfg:
            raise ValueError(
                f'optim_wrapper of a distillation takes {_KEYS} and needs optimizer; unknown {unknown}, got {list(cfg)}'
            )
        kind = cfg.pop('type', None) or _PLAIN_TYPE
        kind = getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]
        if kind not in (_PLAIN_TYPE, _AMP_TYPE):
            raise ValueError(f'optim_wrapper.type of a distillation must be {_PLAIN_TYPE} or {_AMP_TYPE}, got {kind}')
        self.amp = bool(cfg.pop('amp', False)) or kind == _AMP_TYPE
        scale = cfg.pop('loss_scale', None)
        if scale not in (None, 'dynamic'):
            raise ValueError(f"optim_wrapper.loss_scale of a distillation must be 'dynamic', got {scale!r}")
        dtype = cfg.pop('dtype', 'float16')
        if dtype not in ('float16', 'bfloat16'):
            raise ValueError(f"dtype must be 'float16' or 'bfloat16', got {dtype!r}")
        self.dtype = getattr(torch, dtype)
        self.overrides = {int(key): dict(value) for key, value in dict(cfg.pop('blocks', None) or {}).items()}
        for index, override in self.overrides.items():
            if not set(override) <= set(_BLOCK_KEYS):
                raise ValueError(f'optim_wrapper.blocks[{index}] takes {_BLOCK_KEYS}, got {sorted(override)}')
        self.cfg = cfg
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> BlockOptimWrapper:
        """Builds the wrapper for `model`."""
        distiller = find_distiller(model)
        count = len(distiller.blocks)
        wrong = [index for index in self.overrides if not 0 <= index < count]
        if wrong:
            raise ValueError(f'optim_wrapper.blocks must name blocks in 0..{count - 1}, got {wrong[0]}')
        wrappers = {}
        for index, block in enumerate(distiller.all_blocks()):
            cfg = {**copy.deepcopy(self.cfg), **copy.deepcopy(self.overrides.get(index, {}))}
            if self.paramwise_cfg:
                cfg.setdefault('paramwise_cfg', copy.deepcopy(self.paramwise_cfg))
            wrappers[f'block{index}'] = build_optim_wrapper(block, dict(cfg, type='OptimWrapper'))
        device = next(distiller.parameters()).device.type
        return BlockOptimWrapper(device, self.amp, self.dtype, **wrappers)


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
