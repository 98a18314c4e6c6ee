"""DNA's super-network (arXiv 1911.13053): blocks that learn independently to map a teacher's feature to the next."""

import inspect
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.model.weight_init import initialize
from torch import Tensor, nn

from mmnas_ext.archs import BlockSpec, CellSpace, Place, cell_places
from mmnas_ext.archs.cost import token_cost
from mmnas_ext.backbones.chain import default_init, norm_with_eps
from mmnas_ext.distill.align import align
from mmnas_ext.distill.cell import Block, FlatPath
from mmnas_ext.distill.teacher import Teacher, check_teacher
from mmnas_ext.ops import ConvBlock, act_layer_cfg
from mmnas_ext.registry import MODELS

SAMPLING = ('uniform', 'fair')
STANDARDIZE = ('channel', 'feature', None)
_TINY = 1e-6
_PER_VALUE = 30  # multiply-adds; fitted to the times of EfficientNet-Lite0's blocks on a CPU


@MODELS.register_module()
class BlockDistiller(BaseModel):
    """A super-network whose blocks are all trained at once to imitate a teacher, with one teacher forward per step.

    The input of block k is the teacher's feature before it, never the output of another block. Its loss is the mean
    squared error to the feature after it (arXiv 1911.13053, eq. 5). So no block waits for another, and a block's loss
    gives no gradient to another block's parameters. Each step draws one path of one cell per block. The teacher is
    not in ``state_dict`` and not among the parameters that a distributed wrapper sees.

    A deliberate deviation from the authors: features are standardised, so that the losses of all teachers and blocks
    are comparable. They are shares of a variance: a loss of 1 is no better than predicting the mean.

    Args:
        teacher: `Teacher` or its arguments: ``dict(backbone=…)`` or ``dict(timm=NAME)``, with ``checkpoint``.
        space: Anything that `CellSpace.parse` reads.
        blocks: Indices of the blocks to train; ``None`` trains all. Several machines can each train some of them.
        sampling: ``'uniform'`` draws, or ``'fair'`` ones: each candidate of a layer is drawn once within as many steps
            as the layer has candidates (arXiv 1907.01845).
        standardize: ``'channel'`` uses the mean and deviation of each channel over the calibration images,
            ``'feature'`` one mean and one deviation for the whole feature, ``None`` does not standardise.
        block_parallel: Distribute the blocks over the processes: each trains its own blocks on the same images, without
            communication. Needs ``torchrun``; `mmnas_ext.BlockParallel` wraps the model.
        input_size: Height and width that costs are computed for.
        norm_cfg: Config of the student's norms.
        act_cfg: Config of the student's activations; ``None`` uses the activation of the space.
        channels_last: Compute in memory layout NHWC.
        data_preprocessor: As in MMEngine's ``BaseModel``; ``mean`` and ``std`` must be those of the teacher.
        init_cfg: As in MMEngine's ``BaseModel``.

    Attributes:
        wanted: Indices of the blocks to train.
        trained: Indices of the blocks that this process trains.
        steps: Number of training steps of each block so far, (blocks,).

    Raises:
        ValueError: An argument is out of its range, or teacher and space do not fit.
        TypeError: An argument has another type.
    """

    def __init__(
        self,
        teacher: Any,
        space: Any,
        blocks: Sequence[int] | None = None,
        sampling: str = 'uniform',
        standardize: str | None = 'channel',
        block_parallel: bool = False,
        input_size: tuple[int, int] = (224, 224),
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        channels_last: bool = False,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg or default_init())
        check_arguments(
            teacher=teacher, blocks=blocks, sampling=sampling, standardize=standardize, block_parallel=block_parallel,
            input_size=input_size, norm_cfg=norm_cfg, act_cfg=act_cfg, channels_last=channels_last,
        )  # fmt: skip
        self.space = CellSpace.parse(space)
        # in a list, so that the teacher's parameters, buffers and keys are not this module's
        self._teacher = [Teacher.parse(teacher)]
        plans = align(self.space, self.teacher.taps)
        norm_cfg = norm_with_eps(norm_cfg, self.space.space(), None)
        act_cfg = act_cfg or act_layer_cfg(self.space.act)
        self.blocks = nn.ModuleList(Block(self.space, plan, self.teacher.taps, norm_cfg, act_cfg) for plan in plans)
        _check_adapters(self.all_blocks())
        self.sampling = sampling
        self.standardize = standardize
        self.block_parallel = block_parallel
        self.channels_last = channels_last
        height, width = input_size
        self.input_size = (height, width)
        for index, tap in enumerate(self.teacher.taps):
            self.register_buffer(f'mean_{index}', torch.zeros(1, tap.channels, 1, 1))
            self.register_buffer(f'std_{index}', torch.ones(1, tap.channels, 1, 1))
        self.register_buffer('steps', torch.zeros(len(self.blocks), dtype=torch.int64))
        self.register_buffer('calibrated', torch.tensor(standardize is None))
        self.trained = self._choose(blocks)
        self.active = self.trained
        self._draw_key: tuple[int, int] = (0, 0)

    def init_weights(self) -> None:
        """Initialises the student by `init_cfg`; MMEngine's own method would also log thousands of lines.

        Residual branches start at zero (arXiv 1706.02677, section 5.1). Otherwise the output of a deep block would
        start with variance 4 for a target of variance 1, and its first hundreds of steps would only shrink it.
        """
        initialize(self, self.init_cfg)
        for module in self.modules():
            if isinstance(module, ConvBlock) and module.adds:
                nn.init.zeros_(module.last.norm.weight)
        self._is_init = True

    @property
    def teacher(self) -> Teacher:
        """The frozen network."""
        return self._teacher[0]

    def train(self, mode: bool = True) -> 'BlockDistiller':
        """Sets the mode of the blocks, and of a teacher that has ``train_mode``."""
        super().train(mode)
        self.teacher.train(mode)
        return self

    @property
    def is_part(self) -> bool:
        """Whether some of the blocks are not to be trained, so that nothing can be rated."""
        return len(self.wanted) < len(self.blocks)

    def all_blocks(self) -> list[Block]:
        """Returns the blocks."""
        return list(self.blocks)  # type: ignore[arg-type]

    def owners(self, ranks: int) -> tuple[int, ...]:
        """Returns for each block which of `ranks` processes trains it, so that the processes have similar work.

        The largest block comes first; each block goes to the process that has the least work so far.
        """
        load = [0.0] * ranks
        owner = [0] * len(self.blocks)
        prices = _mean_work(self.space, self.all_blocks(), self.input_size)
        for index in sorted(self.wanted, key=lambda k: -prices[k]):
            rank = load.index(min(load))
            load[rank] += prices[index]
            owner[index] = rank
        return tuple(owner)

    def start(self, iteration: int, seed: int, active: Sequence[int] | None = None) -> None:
        """Sets the next step: the iteration and the seed alone decide the draws, on every rank.

        Args:
            iteration: Iteration of the loop.
            seed: Seed of the run.
            active: Indices of the blocks that this step trains; by default all blocks that this process trains.
        """
        self._draw_key = (seed, iteration)
        self.active = self.trained if active is None else tuple(active)

    def draw(self, block: int) -> tuple[int, FlatPath]:
        """Draws the cell and the path of a block for this step."""
        seed, iteration = self._draw_key
        cells = self.all_blocks()[block].all_cells()
        cell = self._pick(len(cells), seed, iteration, block, -1)
        choices = cells[cell].choices
        # a cell is drawn in one of len(cells) steps only: its candidates are drawn fairly among those steps
        visit = iteration // len(cells) if self.sampling == 'fair' else iteration
        return cell, tuple(self._pick(count, seed, visit, block, layer) for layer, count in enumerate(choices))

    def _pick(self, count: int, seed: int, iteration: int, block: int, place: int) -> int:
        if self.sampling == 'uniform':
            return random.Random(f'{seed}/{iteration}/{block}/{place}').randrange(count)
        order = list(range(count))
        random.Random(f'{seed}/{iteration // count}/{block}/{place}').shuffle(order)
        return order[iteration % count]

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Computes the loss of one drawn path per active block, or the teacher's standardised features.

        Args:
            inputs: Images ``(N, 3, H, W)``, preprocessed.
            data_samples: Ignored: no labels are needed.
            mode: ``'loss'`` returns ``loss_block<k>`` per active block, ``'tensor'`` the features ``(N, C, …)``.

        Raises:
            ValueError: `mode` has another value, or a block's output and its target differ in size.
        """
        del data_samples
        if mode == 'tensor':
            return self.features(inputs)
        if mode != 'loss':
            raise ValueError(f"mode must be 'loss' or 'tensor', got {mode!r}")
        last = max(self.all_blocks()[index].plan.target for index in self.active)
        features = self.features(inputs, last)
        losses = {}
        for index in self.active:
            block = self.all_blocks()[index]
            cell, path = self.draw(index)
            output = block(self.entering(index, inputs, features), cell, path)
            target = features[block.plan.target]
            if output.shape != target.shape:
                raise ValueError(
                    f'block {index} has output {tuple(output.shape)}, its target is {tuple(target.shape)}: the last '
                    f'stride must divide both sides of the images, got {tuple(inputs.shape[2:])}'
                )
            losses[f'loss_block{index}'] = F.mse_loss(output.float(), target.float())
            if self.training:
                self.steps[index] += 1
        return losses

    def features(self, inputs: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        """Computes the teacher's standardised features up to index `last`."""
        found = []
        for index, feature in enumerate(self.teacher(inputs, last)):
            mean, std = getattr(self, f'mean_{index}'), getattr(self, f'std_{index}')
            found.append((feature - mean) / std if self.standardize else feature)
        return tuple(found)

    def entering(self, index: int, inputs: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Returns the input of a block: the images, or the teacher's feature before the block."""
        source = self.all_blocks()[index].plan.source
        x = inputs if source is None else features[source]
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    @torch.no_grad()
    def calibrate(self, images: Iterable[Tensor]) -> None:
        """Measures the means and deviations by which features are standardised.

        Args:
            images: Batches ``(N, 3, H, W)``, preprocessed; the statistics are summed over all processes.

        Raises:
            ValueError: `images` is empty, or a feature that a block reads or imitates is constant or not finite.
        """
        for index, total in enumerate(self._measure(images)):
            self._check_feature(index, total)
            if self.standardize == 'feature':
                total = total.mean(1, keepdim=True).expand_as(total)
            mean, deviation, varies = _spread(total)
            # a constant channel is only centred: its deviation would be a rounding error
            deviation = torch.where(varies, deviation, torch.ones_like(deviation))
            for name, values in (('mean', mean), ('std', deviation)):
                buffer = getattr(self, f'{name}_{index}')
                buffer.copy_(values.to(buffer.dtype).reshape(buffer.shape))
        self.calibrated.fill_(True)

    @torch.no_grad()
    def check_features(self, images: Iterable[Tensor]) -> None:
        """Looks whether there is something to imitate.

        Args:
            images: Batches ``(N, 3, H, W)``, preprocessed; one with several images is enough.

        Raises:
            ValueError: `images` is empty, or a feature that a block reads or imitates is constant or not finite.
        """
        for index, total in enumerate(self._measure(images)):
            self._check_feature(index, total)

    def _measure(self, images: Iterable[Tensor]) -> list[Tensor]:
        """Sums the moments of each feature over images and processes."""
        sums: list[Tensor] = []
        self.teacher.train()  # as while blocks learn
        for batch in images:
            moments = [_moments(feature) for feature in self.teacher(batch)]
            sums = moments if not sums else [a + b for a, b in zip(sums, moments, strict=True)]
        self.teacher.train(self.training)
        if not sums:
            raise ValueError('calibrate needs at least one batch of images, got none')
        for total in sums:
            all_reduce(total)
        return sums

    def _check_feature(self, index: int, total: Tensor) -> None:
        """Raises ValueError for moments of a feature that a block reads or imitates and can learn nothing from."""
        used = {each for block in self.all_blocks() for each in (block.plan.source, block.plan.target)}
        finite = bool(torch.isfinite(total).all())
        if index not in used or (finite and _spread(total)[2].any()):
            return
        names = self.teacher.names
        name = names[index] if names else f'output {index}'
        what = 'each channel is constant over all images' if finite else 'it has values that are not finite'
        raise ValueError(
            f"the teacher's feature {name!r} ({total.shape[1]} channels) gives a block nothing to learn: {what}; look "
            "at the teacher's checkpoint and at model.data_preprocessor, or name other features in taps"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> 'BlockDistiller':
        super()._apply(fn, recurse)
        self.teacher._apply(fn, recurse)
        return self

    def _choose(self, blocks: Sequence[int] | None) -> tuple[int, ...]:
        """Sets `wanted` and freezes all blocks that this process does not train; returns those that it trains."""
        everything = tuple(range(len(self.blocks)))
        chosen = self.wanted = everything if blocks is None else tuple(blocks)
        if not chosen or any(index not in everything for index in chosen) or len(set(chosen)) < len(chosen):
            raise ValueError(f'blocks must be distinct indices in 0..{everything[-1]}, or None, got {blocks!r}')
        if self.block_parallel:
            ranks = get_world_size()
            if ranks > len(chosen):
                raise ValueError(
                    f'block_parallel needs at least one block per process, got {len(chosen)} blocks and {ranks} '
                    'processes: start fewer processes'
                )
            owner = self.owners(ranks)
            chosen = tuple(index for index in chosen if owner[index] == get_rank())
        for index, block in enumerate(self.all_blocks()):
            block.requires_grad_(index in chosen)
        return chosen


def _check_adapters(blocks: Sequence[Block]) -> None:
    """Raises ValueError where `stitch` could not fold the adapters between two blocks into the layers behind them."""
    for number, (before, after) in enumerate(pairwise(blocks), start=1):
        adapters = [cell.leave for cell in before.all_cells()] + [cell.enter for cell in after.all_cells()]
        layers: list[Any] = [cell.layers[0] for cell in after.all_cells()]
        tokens = [token for layer in layers for token in layer.tokens if not BlockSpec.parse(token).folds]
        if tokens and any(adapter is not None for adapter in adapters):
            raise ValueError(
                f'the first layer of block {number} offers {tokens[0]}, into which the adapters before it cannot be '
                "folded: offer MBConv layers there, or give stages the channels of the teacher's features"
            )


def check_arguments(**given: Any) -> None:
    """Raises one clear error for what a `BlockDistiller` cannot take; nothing is built.

    Args:
        given: Its arguments, those of the config; what is left out has its default. ``space`` is not looked at.

    Raises:
        ValueError: A key is unknown, or a value out of its range.
        TypeError: A value has another type.
    """
    known = inspect.signature(BlockDistiller).parameters
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f'the keys of model must be among {tuple(known)}, got {unknown[0]!r}')
    if not isinstance(given.get('teacher'), Teacher):
        check_teacher(given.get('teacher'))
    for name, allowed in (('sampling', SAMPLING), ('standardize', STANDARDIZE)):
        if name in given and given[name] not in allowed:
            raise ValueError(f'{name} must be one of {allowed}, got {given[name]!r}')
    for name in ('block_parallel', 'channels_last'):
        if not isinstance(given.get(name, False), bool):
            raise TypeError(f'{name} must be True or False, got {given[name]!r}')
    for name in ('norm_cfg', 'act_cfg'):
        cfg = given.get(name)
        if cfg is not None and not (isinstance(cfg, Mapping) and 'type' in cfg):
            raise TypeError(f"{name} must be dict(type='…', …) or None, got {cfg!r:.100}")
    size = given.get('input_size', (1, 1))
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(_is_index(side) and side for side in size):
        raise TypeError(f'input_size must be height and width in pixels, got {size!r:.100}')
    blocks = given.get('blocks')
    if blocks is not None and not (isinstance(blocks, list | tuple) and all(map(_is_index, blocks))):
        raise TypeError(f'blocks must be a list of indices, or None, got {blocks!r:.100}')


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _moments(feature: Tensor) -> Tensor:
    """Computes the sum, the sum of squares and the number of values per channel: (3, C), double."""
    values = feature.double().transpose(0, 1).flatten(1)
    count = torch.full((values.shape[0],), float(values.shape[1]), dtype=torch.float64, device=values.device)
    return torch.stack([values.sum(1), (values**2).sum(1), count])


def _spread(total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, deviation and whether values vary at all, each (C,), of moments (3, C)."""
    mean = total[0] / total[2]
    square = total[1] / total[2]
    deviation = (square - mean**2).clamp(min=0).sqrt()
    return mean, deviation, deviation > _TINY * square.sqrt()


def _mean_work(space: CellSpace, blocks: Sequence[Block], size: tuple[int, int]) -> list[float]:
    """What a step of each block takes on average, every cell and candidate equally likely, in multiply-adds.

    A value that a convolution puts out counts as some multiply-adds more: norms, activations and their gradients read
    and write it several times, and early blocks have many.
    """
    stem, stages = cell_places(space, size)
    works = [
        fmean(sum(fmean(_work(place, token) for token in place.tokens) for place in row) for row in stage.values())
        for stage in stages
    ]
    first = _work(stem, stem.tokens[0])
    return [sum(works[i] for i in block.plan.stages) + (first if block.plan.source is None else 0) for block in blocks]


def _work(place: Place, token: str) -> float:
    """Work of a candidate; what squeeze-excite puts out is next to nothing."""
    counted = [(conv, positions) for conv, positions in place.outputs(token) if not conv.pooled]
    values = sum(conv.channels * positions for conv, positions in counted)
    return token_cost(place, token).macs + _PER_VALUE * values
