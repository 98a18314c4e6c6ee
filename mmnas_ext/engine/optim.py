"""The optimizer wrapper of a search: two optimizers, two phases; the model's own ``train_step`` is used as it is."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS as MM_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import Choices, HostChoices
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.host_control import HostControl
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.seeding import generator
from mmnas_ext.engine.whole import price_wholes, within_reach
from mmnas_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmnas_ext.search.choosing import Choosing

PHASES = ('weights', 'arch')
_PATH_PER = ('update', 'iteration')


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite; nothing was updated by it."""


@OPTIM_WRAPPERS.register_module()
class SearchOptimWrapper(OptimWrapper):
    """Steps the weights of a drawn path, or alpha alone (FNA, ICLR 2020, section 3.2).

    A *weight step* runs one path; its parameters alone get gradients. Where ``accumulative_counts`` gathers the
    gradients of several weight steps, all of them run the path that was drawn for the first: an update trains one path
    on the images of all, as the authors' updates do, whose images are spread over GPUs. An *arch step* runs all
    candidates, mixed; gradients are computed for alpha alone, as the authors do, who switch those of the weights off,
    and batch-norm statistics stay as they are. Its loss is ``task + weight * log10(E[cost] / unit)``, the cost
    that of the searched layers and the unit 1e9 multiply-adds as in the paper, 1e6 parameters or 1 ms.

    To the runner this wrapper is the weights' optimizer: schedulers, warm-up, learning-rate scaling and logs see
    nothing of alpha's.

    Args:
        weights: Wrapper of the weights' optimizer.
        arch: Wrapper of alpha's optimizer.
        supernet: The super-network inside the model.
        cost: Metric, weight and limit of the cost.
        path_per: ``'update'`` draws one path for all weight steps that are gathered in an update, ``'iteration'`` one
            for each of them.
        selection: How a network is chosen once the search has ended; nothing here depends on it.
        keep_seed: Probability with which a layer of a drawn path has the seed's candidate instead of the drawn one. In
            few steps no path is trained well if all are trained alike; those near the seed then are.
        host: Of a search that chooses the detector's neck and head too: every step has a host that is drawn as paths
            are, from the seed and its number alone, all ranks the same.

    Attributes:
        prices: Prices of the super-network's space by the cost's metric; with a `host` those of whole detectors whose
            neck and head are the config's own.

    Raises:
        ValueError: No network of the space meets the cost's limit, or its table does not cover the space.
    """

    def __init__(
        self,
        weights: OptimWrapper,
        arch: OptimWrapper,
        supernet: SuperNet,
        cost: CostTerm,
        path_per: str = 'update',
        selection: Choosing | None = None,
        keep_seed: float = 0.0,
        host: HostControl | None = None,
    ) -> None:
        if host is None:
            self.prices = cost.prices(supernet.space, supernet.input_size, supernet.output_stride)
        else:
            wholes = price_wholes(cost, host.choices, supernet.space, supernet.output_stride)
            within_reach(cost, wholes)
            self.prices = wholes[host.choices.own]
        self.host = host
        super().__init__(weights.optimizer)
        self.wrappers = {'weights': weights, 'arch': arch}
        self._share_base_settings()
        self._model: nn.Module = supernet
        self.supernet = supernet
        self.cost = cost
        self.selection = selection or Choosing()
        self.keep_seed = keep_seed
        self.seed_path = supernet.seed_path() if keep_seed else None
        if keep_seed and self.seed_path is None:
            raise ValueError(
                f'optim_wrapper.keep_seed must be 0 where the backbone has no seed in its space, got {keep_seed}'
            )
        self.phase = 'weights'
        self.policy = 'uniform'
        self.draw = generator('path', 0, 0)
        self.iteration = 0
        self.gathered = weights._accumulative_counts if path_per == 'update' else 1
        # the update under way and its path: alpha may have moved since, so that a resumed run could not draw it again
        self._drawn: tuple[int, Choices] | None = None
        self._trained = {
            name: [p for group in wrapper.param_groups for p in group['params'] if p.requires_grad]
            for name, wrapper in self.wrappers.items()
        }
        if hasattr(arch, 'grad_name'):
            arch.grad_name = f'arch_{arch.grad_name}'

    def start(self, phase: str, iteration: int, seed: int = 0, policy: str = 'uniform') -> None:
        """Says what the next ``train_step`` is.

        Args:
            phase: ``'weights'`` or ``'arch'``.
            iteration: The loop's iteration.
            seed: The run's. Path draws follow from it and the number of the update (the iteration, if none are
                gathered) alone: every rank draws the same, and a resumed run repeats them.
            policy: How a weight step draws its path: ``'uniform'``, or ``'softmax'`` of alpha.
        """
        assert phase in PHASES, phase
        self.phase, self.iteration, self.policy = phase, iteration, policy
        self.draw = generator('path', seed, iteration // self.gathered)
        if self.host is not None:
            number = iteration if phase == 'arch' else iteration // self.gathered
            self.host.set(self.host.sample(generator(f'host of {phase}', seed, number)))

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Sets the path and what needs gradients, for the forward inside and the backward that follows it."""
        arch_step = self.phase == 'arch'
        self._model = model
        self._require_grad(weights=not arch_step, arch=arch_step)
        if arch_step:
            self.supernet.set_path(None)
        else:
            self.supernet.set_path(self._path())
        with statistics_kept(model, arch_step), self.wrappers[self.phase].optim_context(model):
            yield

    def update_params(
        self, loss: Tensor, step_kwargs: dict[str, Any] | None = None, zero_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Adds the cost term to an arch step's loss, computes gradients and steps the phase's optimizer.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite. No parameter was changed by it.
        """
        if self.phase == 'arch':
            expected = self.supernet.expected_cost(self.prices) / self.prices.unit.size
            loss = loss + (self.cost.weight * expected.log10()).to(loss.dtype)
        try:
            if not torch.isfinite(loss):
                raise NonFiniteLossError(f'the {self.phase} step of iteration {self.iteration} gave loss {loss.item()}')
            # checkpointed layers run their forward once more inside the backward
            with statistics_kept(self._model, self.phase == 'arch'):
                super().update_params(loss, step_kwargs, zero_kwargs)
        finally:
            self._require_grad(weights=True, arch=True)

    def _path(self) -> Choices:
        """Draws the path of a weight step, or goes on with the one that the update under way has."""
        if self.gathered == 1:
            return self._sample()
        update = self.iteration // self.gathered
        if self._drawn is None or self._drawn[0] != update:
            self._drawn = update, self._sample()
        return self._drawn[1]

    def _sample(self) -> Choices:
        drawn = self.supernet.sample_path(self.policy, self.draw)
        if self.seed_path is None:
            return drawn
        where = self.draw.device
        kept = [torch.rand(len(row), generator=self.draw, device=where) < self.keep_seed for row in drawn]
        return tuple(
            tuple(seed if keep else own for own, seed, keep in zip(*rows, strict=True))
            for rows in zip(drawn, self.seed_path, (row.tolist() for row in kept), strict=True)
        )

    def scale_loss(self, loss: Tensor) -> Tensor:
        """As the phase's wrapper does."""
        return self.wrappers[self.phase].scale_loss(loss)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """As the phase's wrapper does."""
        self.wrappers[self.phase].backward(loss, **kwargs)

    def should_update(self) -> bool:
        """As the phase's wrapper does."""
        return self.wrappers[self.phase].should_update()

    def step(self, **kwargs: Any) -> None:
        """Clips and steps as the phase's wrapper does; schedulers count these calls."""
        self.wrappers[self.phase].step(**kwargs)

    def zero_grad(self, **kwargs: Any) -> None:
        """As the phase's wrapper does."""
        self.wrappers[self.phase].zero_grad(**kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Nothing to do: each phase counts its own steps, `load_state_dict` restores them."""

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers, the steps counted, gradients that wait for the rest of their accumulation and their path."""
        state: dict[str, Any] = {
            name: dict(
                wrapper=wrapper.state_dict(),
                count=wrapper.inner_count,
                gradients=[None if p.grad is None else p.grad.clone() for p in self._trained[name]],
            )
            for name, wrapper in self.wrappers.items()
        }
        state['weights']['path'] = self._drawn
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._drawn = state_dict['weights'].get('path')
        for name, state in state_dict.items():
            wrapper = self.wrappers[name]
            wrapper.load_state_dict(state['wrapper'])
            wrapper._inner_count = state['count']
            for parameter, gradient in zip(self._trained[name], state['gradients'], strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self._share_base_settings()

    def _share_base_settings(self) -> None:
        # where parameters have groups of their own, MMEngine schedules one more learning rate, the one that it logs:
        # it must be the one that is saved
        self.base_param_settings = self.wrappers['weights'].base_param_settings

    def _require_grad(self, weights: bool, arch: bool) -> None:
        for name, wanted in (('weights', weights), ('arch', arch)):
            for parameter in self._trained[name]:
                parameter.requires_grad_(wanted)

    def __repr__(self) -> str:
        return '\n'.join(f'{name}: {wrapper!r}' for name, wrapper in self.wrappers.items())


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SearchOptimWrapperConstructor:
    """Builds a `SearchOptimWrapper` from ``weights=``, ``arch=``, ``cost=``, ``selection=`` and ``path_per=``.

    Args:
        optim_wrapper_cfg: ``weights`` and ``arch`` are configs of ordinary optimizer wrappers (``type``, ``optimizer``,
            ``clip_grad``, ``accumulative_counts``; ``weights`` may have a ``paramwise_cfg``); ``cost`` is
            ``dict(weight=λ, target=…, metric='macs', table=…)``, see `CostTerm`; ``path_per`` is ``'update'`` or
            ``'iteration'``, see `SearchOptimWrapper`; ``selection`` says how a network is chosen in the end, see
            `mmnas_ext.search.choosing`, and changes no training; ``keep_seed`` as there; ``host_choices`` is what a run
            writes here of the config's.
        paramwise_cfg: Not taken here: it belongs into ``weights``.

    Raises:
        ValueError: A key is missing or unknown, the cost is malformed, or the model has not exactly one `SuperNet`.
        FileNotFoundError: The cost's table does not exist.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        cfg = dict(optim_wrapper_cfg)
        unknown = set(cfg) - {'type', 'weights', 'arch', 'cost', 'path_per', 'selection', 'keep_seed', 'host_choices'}
        missing = {'weights', 'arch'} - set(cfg)
        if unknown or missing:
            raise ValueError(
                'optim_wrapper of a search takes weights, arch, cost, selection, path_per and keep_seed: '
                f'missing {sorted(missing)}, unknown {sorted(unknown)}'
            )
        if paramwise_cfg is not None:
            raise ValueError("paramwise_cfg belongs into optim_wrapper's weights=dict(…) in a search")
        self.path_per = cfg.pop('path_per', 'update')
        if self.path_per not in _PATH_PER:
            raise ValueError(f'optim_wrapper.path_per must be one of {_PATH_PER}, got {self.path_per!r}')
        self.keep_seed = cfg.pop('keep_seed', None) or 0.0
        known = not isinstance(self.keep_seed, bool) and isinstance(self.keep_seed, int | float)
        if not known or not 0 <= self.keep_seed < 1:
            raise ValueError(f'optim_wrapper.keep_seed must be a probability in [0, 1), got {self.keep_seed!r}')
        self.cost = CostTerm.parse(cfg.pop('cost', None))
        self.selection = Choosing.parse(cfg.pop('selection', None))
        self.host_choices = HostChoices.parse(cfg.pop('host_choices', None))
        self.cfg = cfg

    def __call__(self, model: nn.Module) -> SearchOptimWrapper:
        """Builds the wrapper for `model`."""
        supernet = find_supernet(model)
        alphas = supernet.arch_parameters()
        weights = build_optim_wrapper(model, copy.deepcopy(dict(self.cfg['weights'])))
        _leave_out(weights.optimizer, alphas)
        arch_cfg = copy.deepcopy(dict(self.cfg['arch']))
        arch_cfg.setdefault('type', 'OptimWrapper')
        optimizer = OPTIMIZERS.build(dict(arch_cfg.pop('optimizer'), params=alphas))
        arch = MM_OPTIM_WRAPPERS.build(arch_cfg, default_args=dict(optimizer=optimizer))
        host = None if self.host_choices is None else HostControl(model, self.host_choices)
        return SearchOptimWrapper(
            weights, arch, supernet, self.cost, self.path_per, self.selection, self.keep_seed, host
        )


def find_supernet(model: nn.Module) -> SuperNet:
    """The one `SuperNet` inside a model, wrapped or not.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [m for m in model.modules() if isinstance(m, SuperNet)]
    if len(found) != 1:
        raise ValueError(
            f'a search needs a model with exactly one SuperNet, got {len(found)} in {type(model).__name__}'
        )
    return found[0]


def find_host(runner: Any) -> HostControl | None:
    """What gives a runner's detector another host, built optimizers or not; ``None`` without choices."""
    if isinstance(runner.optim_wrapper, SearchOptimWrapper):
        return runner.optim_wrapper.host
    choices = HostChoices.parse(dict(runner.optim_wrapper).get('host_choices'))
    return None if choices is None else HostControl(runner.model, choices)


@contextmanager
def statistics_kept(model: nn.Module, kept: bool = True) -> Iterator[None]:
    """Batch norms in training mode normalise by the batch, and with `kept` leave their running statistics alone."""
    norms = [m for m in model.modules() if kept and isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def rest_dropouts(model: nn.Module) -> None:
    """Puts every dropout into eval mode, where a model in training mode is only to be measured."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            module.eval()


def _leave_out(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    ids = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        group['params'] = [p for p in group['params'] if id(p) not in ids]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group['params']]
