"""Training loops: those of a search, which alternate weight and arch steps, each on its half; and one that resumes."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmnas_ext.engine.batches import Batches, build_halves, reproducible
from mmnas_ext.engine.optim import NonFiniteLossError, SearchOptimWrapper
from mmnas_ext.engine.seeding import reseed
from mmnas_ext.registry import LOOPS


class Alternation:
    """Who steps when.

    An iteration is one weight step, from `arch_start` on preceded by an arch step every `arch_interval` iterations.

    Args:
        runner: The runner.
        batches: The half that trains alpha.
        arch_start: First iteration with an arch step; before it, paths are drawn uniformly.
        arch_interval: Iterations from one arch step to the next.
    """

    def __init__(self, runner: Any, batches: Batches, arch_start: int, arch_interval: int) -> None:
        check_positive('arch_interval', arch_interval)
        self.runner = runner
        self.batches = batches
        self.arch_start = arch_start
        self.arch_interval = arch_interval

    def arch_steps(self, iteration: int) -> int:
        """Arch steps done before `iteration`."""
        return max(0, -(-(iteration - self.arch_start) // self.arch_interval))

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
        reseed(runner.seed, phase, iteration)
        runner.optim_wrapper.start(phase, iteration, runner.seed, policy)
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


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless an argument is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {value!r}')


def _totals(losses: Mapping[str, Any]) -> dict[str, float]:
    """A loss dict with the entries of several levels added up, as MMEngine does."""
    flat = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in losses.items()}
    return {name: float(sum(v.detach().mean() for v in values)) for name, values in flat.items()}


def _check_search(runner: Any, arch_start: Any, last: int, unit: str) -> None:
    if not isinstance(arch_start, int) or isinstance(arch_start, bool) or not 0 <= arch_start < last:
        raise ValueError(f'train_cfg.arch_start must lie in 0..{last - 1} ({unit} of {last}), got {arch_start!r}')
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, SearchOptimWrapper) and dict(wrapper).get('constructor') is None:
        raise ValueError(
            "a search loop needs optim_wrapper=dict(constructor='mmnas_ext.SearchOptimWrapperConstructor', …)"
        )


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
        split_seed: Seed of the split.
        kwargs: MMEngine's ``val_begin``, ``val_interval``, ``dynamic_intervals``. Without a ``val_begin`` a search is
            not validated: the mixed super-network is not a network you would deploy.

    Raises:
        ValueError: `arch_start` is past the last epoch, or another argument out of range.
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
        **kwargs: Any,
    ) -> None:
        _check_search(runner, arch_start, max_epochs, 'epochs')
        self.weight_batches, arch_batches = build_halves(runner, dataloader, weight_fraction, split_seed)
        kwargs.setdefault('val_begin', max_epochs + 1)
        super().__init__(runner, self.weight_batches.loader, max_epochs, **kwargs)
        self.alternation = Alternation(runner, arch_batches, arch_start * len(self.dataloader), arch_interval)

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.weight_batches), closing(self.alternation):
            return super().run()

    def run_epoch(self) -> None:
        """One pass over the half that trains weights."""
        self.weight_batches.seek(self._iter)
        self.alternation.resume(self._iter)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        # a checkpoint taken by iterations may lie inside an epoch
        done = self._iter - self._epoch * len(self.dataloader)
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
        split_seed: Seed of the split.
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
        **kwargs: Any,
    ) -> None:
        _check_search(runner, arch_start, max_iters, 'iterations')
        weight_batches, arch_batches = build_halves(runner, dataloader, weight_fraction, split_seed)
        kwargs.setdefault('val_begin', max_iters + 1)
        super().__init__(runner, weight_batches.loader, max_iters, **kwargs)
        self.dataloader_iterator = weight_batches
        self.alternation = Alternation(runner, arch_batches, arch_start, arch_interval)

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.dataloader_iterator), closing(self.alternation):
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
    which no checkpoint holds any. Here batches, augmentation and dropout follow from the seed and the iteration.

    Args:
        runner: The runner.
        dataloader: Config of the loader, or a loader.
        max_iters: Iterations.
        kwargs: MMEngine's ``val_begin``, ``val_interval``, ``dynamic_intervals``.
    """

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        super().__init__(runner, reproducible(dataloader) if isinstance(dataloader, dict) else dataloader, max_iters,
                         **kwargs)  # fmt: skip
        self.dataloader_iterator = Batches(self.dataloader, runner.seed, 'train')

    def run(self) -> Any:
        """Trains to the end; no worker outlives it."""
        with closing(self.dataloader_iterator):
            return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """One ordinary training step."""
        reseed(self.runner.seed, 'train', self._iter)
        super().run_iter(data_batch)
