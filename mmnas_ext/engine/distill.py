"""The loop of a distillation, and how its blocks are shared out among processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, broadcast, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from torch import Tensor, nn
from torch.utils.data import Sampler

from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.batches import Batches, reproducible
from mmnas_ext.engine.block_optim import find_distiller
from mmnas_ext.engine.describe import describe_distillation
from mmnas_ext.engine.loops import ResumableIterLoop
from mmnas_ext.engine.seeding import reseed
from mmnas_ext.registry import LOOPS, MODEL_WRAPPERS, name_of
from mmnas_ext.remap.checkpoints import read_state
from mmnas_ext.search.fields import check_count

_COUNTS = ('calibration_batches', 'log_interval', 'val_interval')
# the rest is MMEngine's
_KEYS = (
    'type', 'max_iters', 'max_epochs', 'staged', *_COUNTS, 'val_begin', 'dynamic_intervals', 'fast_forward_on_resume',
)  # fmt: skip


@LOOPS.register_module()
class DistillLoop(ResumableIterLoop):
    """Trains the blocks of a `BlockDistiller`; resumes to the same bits.

    Before the first iteration the teacher's features are standardised by the moments of some batches.

    With ``max_epochs`` the length follows from the batch and the number of processes. Schedules then go by epochs too:
    ``dict(by_epoch=True, convert_to_iter_based=True, …)``.

    Args:
        runner: The runner.
        dataloader: Config of the loader.
        max_iters: Iterations; instead of `max_epochs`.
        max_epochs: Passes over the images; instead of `max_iters`.
        calibration_batches: Batches by which features are standardised.
        staged: Train one block after the other, each for its share of the iterations, as the authors do
            (arXiv 1911.13053, section 4.1), instead of all of them in each iteration.
        log_interval: Iterations after which processes that each train some blocks exchange their losses, to be logged.
        kwargs: MMEngine's ``val_begin`` and ``val_interval``, after how many iterations paths are rated; by default
            once, at the end.

    Raises:
        ValueError: The model is no `BlockDistiller`, or an argument is out of range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int | None = None,
        max_epochs: int | None = None,
        calibration_batches: int = 16,
        staged: bool = False,
        log_interval: int = 10,
        **kwargs: Any,
    ) -> None:
        check_training(
            max_iters=max_iters, max_epochs=max_epochs, calibration_batches=calibration_batches, staged=staged,
            log_interval=log_interval, **kwargs,
        )  # fmt: skip
        self.distiller = find_distiller(runner.model)
        self.shared = self.distiller.block_parallel
        if self.shared and isinstance(dataloader, dict):
            dataloader = same_for_all(dataloader, shuffle=True)
        super().__init__(runner, dataloader, max_iters or 1, **kwargs)
        if not len(self.dataloader):
            raise ValueError('train_dataloader.batch_size is larger than its dataset, and drop_last leaves no batch')
        if max_epochs is not None:
            self._max_iters = max_epochs * len(self.dataloader)
            self._max_epochs = max_epochs
        if 'val_interval' not in kwargs:
            # rating takes long. MMEngine reads the interval from this list in each iteration
            self.val_interval = self.dynamic_intervals[0] = self._max_iters
        if self.distiller.is_part:
            self.val_begin = self._max_iters + 1  # a rating needs all blocks
        if self.shared:
            self.dataloader_iterator = Batches(self.dataloader, self.seed, 'train', same_for_all=True)
            base = (runner.auto_scale_lr or {}).get('base_batch_size')
            if base:
                # all processes train on the same images: their number makes no batch larger
                runner.auto_scale_lr = dict(runner.auto_scale_lr, base_batch_size=base * get_world_size())
        self.calibration_batches = calibration_batches
        self.staged = staged
        self.log_interval = log_interval

    def run(self) -> Any:
        """Standardises the features, unless a checkpoint knows how, then trains to the end."""
        batch = self.dataloader.batch_size or self.dataloader.batch_sampler.batch_size
        logger = self.runner.logger
        logger.info(describe_distillation(self.distiller, self._max_iters, batch, self.staged))
        if not self.distiller.calibrated:
            logger.info(f'features are standardised by {self.calibration_batches} batches')
            self._measure(self.distiller.calibrate, self.calibration_batches)
        elif self.distiller.standardize is None and not self._iter:
            self._measure(self.distiller.check_features, 1)
        return super().run()

    def _measure(self, use: Callable[[Iterator[Tensor]], None], count: int) -> None:
        with closing(Batches(self.dataloader, self.seed, 'calibration', self.shared)) as batches:
            use(preprocess(self.distiller, batches, count))

    def run_iter(self, data_batch: Any) -> None:
        """One step of every block that this process trains."""
        # a teacher in training mode may drop what it draws: the same on processes that share one teacher's blocks
        reseed(self.seed, 'train', self._iter, rank=0 if self.shared else None)
        self.distiller.start(self._iter, self.seed, self.active(self._iter))
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        if self.shared:
            outputs = self._exchange(outputs)
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def active(self, iteration: int) -> Sequence[int]:
        """Blocks that an iteration trains."""
        blocks = self.distiller.trained
        return (blocks[iteration * len(blocks) // self._max_iters],) if self.staged else blocks

    def _exchange(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Losses of all processes now and then, and all blocks where a checkpoint is about to be written."""
        done = self._iter + 1
        last = done == self._max_iters
        if last or any(
            isinstance(hook, CheckpointHook)
            and not hook.by_epoch
            and hook.every_n_train_iters(self.runner, hook.interval)
            for hook in self.runner.hooks
        ):
            merge_blocks(self.distiller, self.runner.optim_wrapper)
        if not last and done % self.log_interval:
            return outputs
        losses = {name: float(value) for name, value in outputs.items() if name.startswith('loss_block')}
        merged: dict[str, Any] = {}
        for each in all_gather_object(losses):
            merged.update(each)
        merged = {name: torch.tensor(merged[name]) for name in sorted(merged)}
        return {'loss': torch.stack(list(merged.values())).sum(), **merged}


def check_training(**settings: Any) -> None:
    """Raises one clear error for what `DistillLoop` cannot take; nothing is built.

    Args:
        settings: Its arguments, those of the config; what is left out has its default.

    Raises:
        ValueError: An argument is unknown or out of its range, or neither or both of the lengths are given.
        TypeError: An argument has another type.
    """
    unknown = sorted(set(settings) - set(_KEYS))
    if unknown:
        raise ValueError(f'train_cfg of a distillation takes {_KEYS}, got {unknown[0]!r}')
    lengths = {name: settings[name] for name in ('max_iters', 'max_epochs') if settings.get(name) is not None}
    if len(lengths) != 1:
        raise ValueError(f'train_cfg of a distillation must have either max_iters or max_epochs, got {lengths or None}')
    for name in (*lengths, *(name for name in _COUNTS if name in settings)):
        check_count(f'train_cfg.{name}', settings[name], 1)
    if not isinstance(settings.get('staged', False), bool):
        raise TypeError(f'train_cfg.staged must be True or False, got {settings["staged"]!r}')


def merge_blocks(distiller: BlockDistiller, optim_wrapper: Any) -> None:
    """Gives every process the blocks, and the main one the optimizers' states, of those that train them."""
    ranks = get_world_size()
    if ranks == 1:
        return
    owners = distiller.owners(ranks)
    for block, owner in zip(distiller.all_blocks(), owners, strict=True):
        for tensor in block.state_dict().values():
            broadcast(tensor, src=owner)
    all_reduce(distiller.steps, 'max')
    mine = {f'block{index}': optim_wrapper[f'block{index}'].state_dict() for index in distiller.trained}
    for rank, states in enumerate(all_gather_object(mine)):
        if is_main_process() and rank != get_rank():
            for name, state in states.items():
                optim_wrapper[name].load_state_dict(state)


def join_blocks(distiller: BlockDistiller, checkpoints: Sequence[str | Path]) -> None:
    """Loads blocks that several runs have trained, each some of them: every block from where it was trained longest.

    Args:
        distiller: The distiller.
        checkpoints: Files.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A checkpoint is of another distillation, or its features are standardised otherwise.
    """
    states = [dict(read_state(file)[0]) for file in checkpoints]
    own = distiller.state_dict()
    for file, state in zip(checkpoints, states, strict=True):
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ValueError(f'{file} is no checkpoint of this distillation: its tensors are others')
        moments = [name for name in own if name.startswith(('mean_', 'std_'))]
        if not all(torch.equal(state[name], states[0][name]) for name in moments):
            raise ValueError(f'{file} standardises features otherwise than {checkpoints[0]}: other images or seed')
    joined = dict(states[0])
    for index in range(len(distiller.blocks)):
        longest = max(states, key=lambda state: int(state['steps'][index]))
        joined.update({name: value for name, value in longest.items() if name.startswith(f'blocks.{index}.')})
    joined['steps'] = torch.stack([state['steps'] for state in states]).amax(0)
    distiller.load_state_dict(joined)


@MODEL_WRAPPERS.register_module()
class BlockParallel(nn.Module):
    """What stands in for a distributed wrapper where every process trains blocks of its own: nothing is exchanged.

    Args:
        module: The `BlockDistiller`.
        kwargs: What MMEngine hands to wrappers; not needed.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        del kwargs
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """As the module's."""
        losses: dict[str, Tensor] = self.module.train_step(data, optim_wrapper)  # type: ignore[operator]
        return losses


class SameForAll(Sampler[int]):
    """A sampler that gives every process the same images.

    Args:
        dataset: The dataset.
        shuffle: Whether each epoch has an order of its own.
        seed: Of the orders.
        round_up: MMEngine passes it to samplers; there is nothing to round here.
    """

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = None, round_up: bool = True) -> None:
        del round_up
        self.count, self.shuffle, self.seed, self.epoch = len(dataset), shuffle, seed or 0, 0

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.count))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.count, generator=generator).tolist())

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch's order comes next."""
        self.epoch = epoch


def same_for_all(dataloader: dict[str, Any], shuffle: bool) -> dict[str, Any]:
    """A loader's config that gives every process the same batches; the one given is left as it is."""
    cfg = reproducible(dataloader)
    if shuffle and 'InfiniteSampler' in name_of(dataloader.get('sampler')):
        cfg['drop_last'] = True  # an endless sampler has no short batch
    return dict(cfg, sampler=dict(type=SameForAll, shuffle=shuffle))


def preprocess(distiller: BlockDistiller, batches: Any, count: int | None = None) -> Iterator[Tensor]:
    """Images ``(N, 3, H, W)`` of up to `count` batches as the networks take them."""
    for number, batch in enumerate(batches):
        if number == count:
            return
        yield distiller.data_preprocessor(batch, False)['inputs']
