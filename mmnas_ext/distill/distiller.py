"""DNA's super-network (arXiv 1911.13053): blocks that learn, each alone, to turn a teacher's feature into the next."""

import random
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.model.weight_init import initialize
from torch import Tensor, nn

from mmnas_ext.archs import CellSpace, Place, cell_places
from mmnas_ext.archs.cost import token_cost
from mmnas_ext.backbones.chain import default_init, norm_with_eps
from mmnas_ext.distill.align import align
from mmnas_ext.distill.cell import Block, FlatPath
from mmnas_ext.distill.teacher import Teacher
from mmnas_ext.ops import MBConv, act_layer_cfg
from mmnas_ext.registry import MODELS

SAMPLING = ('uniform', 'fair')
STANDARDIZE = ('channel', 'feature', None)
_TINY = 1e-6
_PER_VALUE = 30  # multiply-adds; fitted to the times of EfficientNet-Lite0's blocks on a CPU


@MODELS.register_module()
class BlockDistiller(BaseModel):
    """Trains the blocks of a super-network to imitate a teacher, all in one pass over one teacher forward.

    Block k gets the teacher's feature before it, never another block's output, and its loss is the mean squared error
    to the feature after it (arXiv 1911.13053, eq. 5); so no block waits for another one, and no loss touches another
    block's parameters. One path of one cell is drawn per block and step. The teacher is no part of ``state_dict``, nor
    of the parameters that a distributed wrapper sees.

    Deliberately otherwise than the authors: features are standardised, so that losses of teachers of any scale, and of
    all blocks, are shares of a variance: 1 is no better than predicting the mean.

    Args:
        teacher: `Teacher` or its arguments: ``dict(backbone=…)`` or ``dict(timm=NAME)``, with ``checkpoint``.
        space: Anything that `CellSpace.parse` reads.
        blocks: Indices of the blocks that are trained; ``None`` trains all. Several machines can each take some.
        sampling: ``'uniform'`` draws, or ``'fair'``: within as many steps as a layer has candidates each is drawn once
            (arXiv 1907.01845).
        standardize: ``'channel'`` by each channel's mean and deviation over the calibration images, ``'feature'``
            by one of each for the whole feature, ``None`` not at all.
        block_parallel: Share the blocks out among the processes: each trains its own on the same images, without
            any traffic between them. Needs ``torchrun``; `mmnas_ext.BlockParallel` wraps the model.
        input_size: Height and width at which costs are counted.
        norm_cfg: Norm of the student.
        act_cfg: Activation; ``None`` takes the space's.
        channels_last: Compute in memory layout NHWC.
        data_preprocessor: MMEngine's; ``mean`` and ``std`` are the teacher's.
        init_cfg: MMEngine's.

    Attributes:
        wanted: Indices of the blocks that are to be trained.
        trained: Those among them that this process trains.
        steps: How often each block has been trained, (blocks,).

    Raises:
        ValueError: An argument is out of its range, or teacher and space do not fit.
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
        if sampling not in SAMPLING:
            raise ValueError(f'sampling must be one of {SAMPLING}, got {sampling!r}')
        if standardize not in STANDARDIZE:
            raise ValueError(f'standardize must be one of {STANDARDIZE}, got {standardize!r}')
        self.space = CellSpace.parse(space)
        # in a list: a frozen network is none of this module's parameters, buffers or keys
        self._teacher = [Teacher.parse(teacher)]
        plans = align(self.space, self.teacher.taps)
        norm_cfg = norm_with_eps(norm_cfg, self.space.space(), None)
        act_cfg = act_cfg or act_layer_cfg(self.space.act)
        self.blocks = nn.ModuleList(Block(self.space, plan, self.teacher.taps, norm_cfg, act_cfg) for plan in plans)
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
        self.trained = self._chosen(blocks)
        self.active = self.trained
        self._draw_key: tuple[int, int] = (0, 0)

    def init_weights(self) -> None:
        """Initialises the student by `init_cfg`; MMEngine's own would also log thousands of lines.

        Residual branches begin at zero (arXiv 1706.02677, section 5.1): of a target of variance 1 a deep block would
        otherwise begin with an output of variance 4, and spend its first hundreds of steps on shrinking it.
        """
        initialize(self, self.init_cfg)
        for module in self.modules():
            if isinstance(module, MBConv) and module.residual:
                nn.init.zeros_(module.project.norm.weight)
        self._is_init = True

    @property
    def teacher(self) -> Teacher:
        """The frozen network."""
        return self._teacher[0]

    def all_blocks(self) -> list[Block]:
        """The blocks."""
        return list(self.blocks)  # type: ignore[arg-type]

    def owners(self, ranks: int) -> tuple[int, ...]:
        """Which of `ranks` processes trains each block, so that their work differs little.

        The largest blocks first, each to the process that has least.
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
        """Says which step is next: draws follow from it and the seed alone, on every rank.

        Args:
            iteration: The loop's iteration.
            seed: The run's.
            active: Blocks that take part; by default those that are trained.
        """
        self._draw_key = (seed, iteration)
        self.active = self.trained if active is None else tuple(active)

    def draw(self, block: int) -> tuple[int, FlatPath]:
        """The cell and the path of a block in this step."""
        seed, iteration = self._draw_key
        cells = self.all_blocks()[block].all_cells()
        cell = self._pick(len(cells), seed, iteration, block, -1)
        choices = cells[cell].choices
        # a cell is drawn every so many steps only: fairness is among the steps that draw it
        visit = iteration // len(cells) if self.sampling == 'fair' else iteration
        return cell, tuple(self._pick(count, seed, visit, block, layer) for layer, count in enumerate(choices))

    def _pick(self, count: int, seed: int, iteration: int, block: int, place: int) -> int:
        if self.sampling == 'uniform':
            return random.Random(f'{seed}/{iteration}/{block}/{place}').randrange(count)
        order = list(range(count))
        random.Random(f'{seed}/{iteration // count}/{block}/{place}').shuffle(order)
        return order[iteration % count]

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Distillation losses of one drawn path per active block, or the teacher's standardised features.

        Args:
            inputs: Images ``(N, 3, H, W)``, preprocessed.
            data_samples: Not looked at: no labels are needed.
            mode: ``'loss'`` gives ``loss_block<k>`` per active block, ``'tensor'`` the features ``(N, C, …)``.

        Raises:
            ValueError: Another mode, or student and teacher disagree about a feature's size.
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
                    f'block {index} gives {tuple(output.shape)} where the teacher gives {tuple(target.shape)}: '
                    'images must have sides that the last stride divides'
                )
            losses[f'loss_block{index}'] = F.mse_loss(output.float(), target.float())
            if self.training:
                self.steps[index] += 1
        return losses

    def features(self, inputs: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        """The teacher's features up to `last`, standardised."""
        found = []
        for index, feature in enumerate(self.teacher(inputs, last)):
            mean, std = getattr(self, f'mean_{index}'), getattr(self, f'std_{index}')
            found.append((feature - mean) / std if self.standardize else feature)
        return tuple(found)

    def entering(self, index: int, inputs: Tensor, features: Sequence[Tensor]) -> Tensor:
        """What enters a block: the images or the teacher's feature before it."""
        source = self.all_blocks()[index].plan.source
        x = inputs if source is None else features[source]
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    @torch.no_grad()
    def calibrate(self, images: Iterable[Tensor]) -> None:
        """Measures the means and deviations that features are standardised by.

        Args:
            images: Batches ``(N, 3, H, W)``, preprocessed; of every process its own.

        Raises:
            ValueError: There are no images.
        """
        sums: list[Tensor] = []
        for batch in images:
            moments = [_moments(feature) for feature in self.teacher(batch)]
            sums = moments if not sums else [a + b for a, b in zip(sums, moments, strict=True)]
        if not sums:
            raise ValueError('features are standardised by at least one batch of images, got none')
        for index, total in enumerate(sums):
            all_reduce(total)
            if self.standardize == 'feature':
                total = total.mean(1, keepdim=True).expand_as(total)
            mean = total[0] / total[2]
            deviation = (total[1] / total[2] - mean**2).clamp(min=0).sqrt()
            # a channel that never moves stays as it is, centred; what rounding leaves of it is no deviation
            moves = deviation > _TINY * (total[1] / total[2]).sqrt()
            deviation = torch.where(moves, deviation, torch.ones_like(deviation))
            for name, values in (('mean', mean), ('std', deviation)):
                buffer = getattr(self, f'{name}_{index}')
                buffer.copy_(values.to(buffer.dtype).reshape(buffer.shape))
        self.calibrated.fill_(True)

    def _apply(self, fn: Any, recurse: bool = True) -> 'BlockDistiller':
        super()._apply(fn, recurse)
        self.teacher._apply(fn, recurse)
        return self

    def _chosen(self, blocks: Sequence[int] | None) -> tuple[int, ...]:
        everything = tuple(range(len(self.blocks)))
        chosen = self.wanted = everything if blocks is None else tuple(blocks)
        if not chosen or any(index not in everything for index in chosen) or len(set(chosen)) < len(chosen):
            raise ValueError(f'blocks must be distinct indices in 0..{everything[-1]}, or None, got {blocks!r}')
        if self.block_parallel:
            ranks = get_world_size()
            if ranks > len(chosen):
                raise ValueError(
                    f'block_parallel shares {len(chosen)} blocks out among the processes, and there are {ranks}: '
                    'start fewer'
                )
            owner = self.owners(ranks)
            chosen = tuple(index for index in chosen if owner[index] == get_rank())
        for index, block in enumerate(self.all_blocks()):
            block.requires_grad_(index in chosen)
        return chosen


def _moments(feature: Tensor) -> Tensor:
    """Sum, sum of squares and number of values per channel, (3, C), double."""
    values = feature.double().transpose(0, 1).flatten(1)
    count = torch.full((values.shape[0],), float(values.shape[1]), dtype=torch.float64, device=values.device)
    return torch.stack([values.sum(1), (values**2).sum(1), count])


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
