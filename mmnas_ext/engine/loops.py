"""Training loops: those of a search, which alternate weight and arch steps, each on its half; and one that resumes."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmnas_ext.engine.batches import Batches, build_halves, reproducible
from mmnas_ext.engine.optim import NonFiniteLossError, SearchOptimWrapper
from mmnas_ext.engine.seeding import common_seed, reseed
from mmnas_ext.registry import LOOPS
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.search.fields import check_count
from mmnas_ext.upstream import Unread, resumable


class Alternation:
    """Who steps when.

    An iteration is one weight step, from `arch_start` on preceded by an arch step every `arch_interval` iterations.

    Args:
        runner: The runner.
        batches: The half that trains alpha.
        arch_start: First iteration with an arch step; before it, paths are drawn uniformly.
        arch_interval: Iterations from one arch step to the next.
        seed: The run's seed, the same in all processes: paths and dropout follow from it.
    """

    def __init__(self, runner: Any, batches: Batches, arch_start: int, arch_interval: int, seed: int = 0) -> None:
        check_count('arch_interval', arch_interval, 1)
        self.runner = runner
        self.batches = batches
        self.seed = seed
        self.arch_start = arch_start
        self.arch_interval = arch_interval

    def arch_steps(self, iteration: int) -> int:
        """Arch steps done before `iteration`."""
        return max(0, -(-(iteration - self.arch_start) // self.arch_interval))

    def start(self, iteration: int) -> None:
        """Begins the arch half's batches anew where `iteration` finds them, as an epoch of the weights begins."""
        self.batches.start(self.arch_steps(iteration))

    def resume(self, iteration: int) -> None:
        """Moves the arch half's batches to where `iteration` finds them."""
        self.batches.seek(self.arch_steps(iteration))

    def close(self) -> None:
        """Lets go of the workers that load the arch half."""
        self.batches.close()

    def step(self, iteration: int, weight_batch: Any) -> dict[str, Any]:
        """One iteration; returns what to log."""
        started = iteration >= self.arch_start
        outputs: dict[str, Any] = {}
        if started and (iteration - self.arch_start) % self.arch_interval == 0:
            logs = self._train_step('arch', iteration, next(self.batches), 'softmax')
            outputs = {f'arch_{name}': value for name, value in logs.items()}
        outputs.update(self._train_step('weights', iteration, weight_batch, 'softmax' if started else 'uniform'))
        return outputs

    def _train_step(self, phase: str, iteration: int, batch: Any, policy: str) -> dict[str, Any]:
        runner = self.runner
        reseed(self.seed, phase, iteration)
        runner.optim_wrapper.start(phase, iteration, self.seed, policy)
        module = runner.model.module if is_model_wrapper(runner.model) else runner.model
        losses: dict[str, Any] = {}
        # the optimizer wrapper sees their sum alone; a second forward might wait for other ranks, and differ
        handle = module.register_forward_hook(lambda _module, _args, output: losses.update(output))
        try:
            return runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f'{error}; losses: {_totals(losses)}') from None
        finally:
            handle.remove()


def _totals(losses: Mapping[str, Any]) -> dict[str, float]:
    """A loss dict with the entries of several levels added up, as MMEngine does."""
    flat = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in losses.items()}
    return {name: float(sum(v.detach().mean() for v in values)) for name, values in flat.items()}


# hooks of MMDetection and MMPretrain that exchange transforms, and the last epoch, from 0, at which they do
_SWITCHES: dict[str, Callable[[Any], int]] = {
    'PipelineSwitchHook': lambda hook: int(hook.switch_epoch),
    'SwitchRecipeHook': lambda hook: int(max(hook.schedule, default=1)) - 1,
    'YOLOXModeSwitchHook': lambda hook: int(hook.num_last_epochs),
}


def check_hooks(runner: Any, epochs: int | None) -> None:
    """Refuses hooks that would exchange the transforms never, or not in both halves; warns of one that comes too late.

    Args:
        runner: The runner.
        epochs: Epochs of a search; ``None`` for a loop of iterations.

    Raises:
        ValueError: There is such a hook.
    """
    for hook in getattr(runner, 'hooks', ()):
        names = [base.__name__ for base in type(hook).__mro__ if base.__name__ in _SWITCHES]
        if not names:
            continue
        name, last = names[0], _SWITCHES[names[0]](hook)
        if epochs is None and (last > 0 or name == 'YOLOXModeSwitchHook'):
            raise ValueError(
                f'custom_hooks has {name}, which counts epochs, but train_cfg counts iterations: it would never switch '
                'when it should; leave it out, or train by epochs'
            )
        if name == 'YOLOXModeSwitchHook':
            raise ValueError(
                f'custom_hooks has {name}, which needs a MultiImageMixDataset, whose images mix the halves of a '
                'search: use CachedMosaic, CachedMixUp and PipelineSwitchHook'
            )
        if epochs is not None and last >= epochs:
            runner.logger.warning(f'{name} switches in epoch {last}, but there are {epochs}, from 0: it never will')


def switch_transforms(runner: Any) -> None:
    """Has hooks exchange what they do up to the last epoch of a search, of which none is left that would call them.

    Held-out images are read by the transforms in force, also where a finished search is opened again.

    Args:
        runner: The runner; its training loop is a search's.
    """
    hooks = [hook for hook in runner.hooks if {base.__name__ for base in type(hook).__mro__} & _SWITCHES.keys()]
    loop = runner.train_loop
    ended = loop._epoch
    try:
        for epoch in range(loop.max_epochs):
            loop._epoch = epoch
            for hook in hooks:
                hook.before_train_epoch(runner)
    finally:
        loop._epoch = ended


def _check_search(runner: Any, start: Any, last: int, unit: str) -> None:
    wrapper = runner.optim_wrapper
    selection = wrapper.selection if isinstance(wrapper, SearchOptimWrapper) else dict(wrapper).get('selection')
    # losses decide without alpha as well
    most = last if Choosing.parse(selection).type == 'measured' else last - 1
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= most:
        raise ValueError(f'train_cfg.arch_start must lie in 0..{most} ({unit} of {last}), got {start!r}')
    if not isinstance(wrapper, SearchOptimWrapper) and dict(wrapper).get('constructor') is None:
        raise ValueError(
            "a search loop needs optim_wrapper=dict(constructor='mmnas_ext.SearchOptimWrapperConstructor', …)"
        )
    check_hooks(runner, last if unit == 'epochs' else None)


@LOOPS.register_module()
class SearchEpochLoop(EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` for a search. An epoch is one pass over the half that trains weights.

    Args:
        runner: The runner.
        dataloader: Config of both halves' loaders.
        max_epochs: Epochs.
        arch_start: First epoch, from 0, with arch steps.
        arch_interval: Weight steps per arch step: 1 alternates 1 : 1, 5 makes it 1 : 5.
        weight_fraction: Share of the images that train weights; the others train alpha.
        split_seed: Seed of the split, independent of ``randomness.seed``.
        pipelines: Transforms of either half, ``dict(weights=[…], arch=[…])``, for every dataset inside wrappers; a half
            that is not named has the dataset's, one with ``dict(leave_out=['RandomFlip'])`` these without that.
            A hook that exchanges the dataset's transforms does so in both halves.
        kwargs: MMEngine's ``val_begin``, ``val_interval``, ``dynamic_intervals``. Without a ``val_begin`` a search is
            not validated: the mixed super-network is not a network you would deploy.

    Raises:
        ValueError: `arch_start` is past the last epoch (past their end, where losses are measured that decide), or
            another argument out of range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: dict[str, Any],
        max_epochs: int,
        arch_start: int,
        arch_interval: int = 1,
        weight_fraction: float = 0.5,
        split_seed: int = 0,
        pipelines: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_search(runner, arch_start, max_epochs, 'epochs')
        halves = build_halves(runner, dataloader, weight_fraction, split_seed, pipelines)
        self.weight_batches, arch_batches = halves
        kwargs.setdefault('val_begin', max_epochs + 1)
        super().__init__(runner, self.weight_batches.loader, max_epochs, **kwargs)
        first = arch_start * len(self.dataloader)
        self.alternation = Alternation(runner, arch_batches, first, arch_interval, common_seed(runner))

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.weight_batches), closing(self.alternation):
            return super().run()

    def run_epoch(self) -> None:
        """One pass over the half that trains weights."""
        self.runner.call_hook('before_train_epoch')
        first = self._epoch * len(self.dataloader)
        # the arch half's transforms begin anew as those of the weights do, and are those that hooks have just put
        # there: a run that is resumed in this epoch reads from here on too
        self.alternation.start(first)
        # a checkpoint taken by iterations may lie inside an epoch
        self.weight_batches.seek(self._iter)
        self.alternation.resume(self._iter)
        self.runner.model.train()
        done = self._iter - first
        for idx in range(done, len(self.dataloader)):
            self.run_iter(idx, next(self.weight_batches))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One weight step, and the arch step before it if it is due."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.alternation.step(self._iter, data_batch)
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@LOOPS.register_module()
class SearchIterLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` for a search.

    Args:
        runner: The runner.
        dataloader: Config of both halves' loaders.
        max_iters: Iterations, that is weight steps.
        arch_start: First iteration with an arch step.
        arch_interval: Weight steps per arch step.
        weight_fraction: Share of the images that train weights; the others train alpha.
        split_seed: Seed of the split, independent of ``randomness.seed``.
        pipelines: Transforms of either half, ``dict(weights=[…], arch=[…])``, for every dataset inside wrappers; a half
            that is not named has the dataset's, one with ``dict(leave_out=['RandomFlip'])`` these without that.
            A hook that exchanges the dataset's transforms does so in both halves.
        kwargs: MMEngine's ``val_begin``, ``val_interval``, ``dynamic_intervals``. Without a ``val_begin`` a search is
            not validated: the mixed super-network is not a network you would deploy.

    Raises:
        ValueError: `arch_start` is past the last iteration, or another argument out of range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: dict[str, Any],
        max_iters: int,
        arch_start: int,
        arch_interval: int = 1,
        weight_fraction: float = 0.5,
        split_seed: int = 0,
        pipelines: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_search(runner, arch_start, max_iters, 'iterations')
        weight_batches, arch_batches = build_halves(runner, dataloader, weight_fraction, split_seed, pipelines)
        kwargs.setdefault('val_begin', max_iters + 1)
        super().__init__(runner, Unread(weight_batches.loader), max_iters, **kwargs)
        self.dataloader, self.dataloader_iterator = weight_batches.loader, weight_batches
        self.alternation = Alternation(runner, arch_batches, arch_start, arch_interval, common_seed(runner))

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.dataloader_iterator) as batches, closing(self.alternation):
            self.dataloader_iterator = resumable(batches, self._iter)
            return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """One weight step, and the arch step before it if it is due."""
        self.alternation.resume(self._iter)
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs = self.alternation.step(self._iter, data_batch)
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` whose resumed run repeats an uninterrupted one to the bit.

    MMEngine's reads on where it stopped, but crops, flips and dropout follow from the states of random generators, of
    which no checkpoint holds any. Here batches, augmentation and dropout follow from the seed and the iteration, and
    transforms that remember images (a mosaic's cache) forget them with each pass over the dataset.

    Args:
        runner: The runner.
        dataloader: Config of the loader, or a loader.
        max_iters: Iterations.
        kwargs: MMEngine's ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        check_hooks(runner, None)
        self.seed = common_seed(runner)
        if isinstance(dataloader, dict):
            dataloader = reproducible(dataloader, self.seed)
            # as MMEngine's own loops build it
            different = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=different)
        super().__init__(runner, Unread(dataloader), max_iters, **kwargs)
        self.dataloader, self.dataloader_iterator = dataloader, Batches(dataloader, self.seed, 'train')

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.dataloader_iterator) as batches:
            self.dataloader_iterator = resumable(batches, self._iter)
            return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """One ordinary training step."""
        reseed(self.seed, 'train', self._iter)
        super().run_iter(data_batch)
