"""Rates every path of a cell by how well it imitates the teacher on held-out images (arXiv 1911.13053, section 3.4).

Paths with the same first layers compute them once: the tree of paths is walked depth first, so 6**4 paths take 1554
layer evaluations instead of 5184, and memory holds one feature per layer. Each path has its own batch-norm statistics:
the running ones mix all paths that were trained, and are wrong for each of them. A path's statistics are measured on
calibration images first, in batches as in training, and averaged over the batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.distill.cell import Alternatives, BlockCell, FlatPath

# a batch of inputs of a block, and of the feature that the block imitates
Batch = tuple[Tensor, Tensor]
Batches = Callable[[], Iterable[Batch]]
Node = tuple[int, ...]
_ROUNDING = 1e-12  # relative rounding error of a sum of squares in double, with a margin
_SMALL_TREE = 300  # a cell with more paths is rated in one piece per first choice


class Unit(NamedTuple):
    """A piece of a cell's tree that is rated and saved as a whole: the paths that begin with `prefix`."""

    prefix: FlatPath
    paths: tuple[FlatPath, ...]
    evaluations: int


@dataclass
class _Spread:
    """Moments of the feature to imitate."""

    total: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, target: Tensor) -> None:
        values = target.double()
        self.total += float(values.sum())
        self.squares += float((values**2).sum())
        self.count += values.numel()

    @property
    def deviation(self) -> float:
        square = self.squares / self.count
        variance = square - (self.total / self.count) ** 2
        # a constant feature has a variance of 0 up to rounding errors
        return float(variance**0.5) if variance > _ROUNDING * square else 0.0


def units(cell: BlockCell) -> list[Unit]:
    """Divides a cell's paths into the pieces in which they are rated, in the order of the paths."""
    counts = cell.choices
    if len(cell.paths) <= _SMALL_TREE:
        prefixes: list[FlatPath] = [()]
    else:
        first = next(i for i, count in enumerate(counts) if count > 1)
        prefixes = list(dict.fromkeys(path[: first + 1] for path in cell.paths))
    found = []
    for prefix in prefixes:
        paths = tuple(path for path in cell.paths if path[: len(prefix)] == prefix)
        nodes = {path[: depth + 1] for path in paths for depth in range(len(path))}
        found.append(Unit(prefix, paths, len(nodes)))
    return found


@torch.no_grad()
def rate(cell: BlockCell, prefix: FlatPath, calibration: Batches, images: Batches) -> list[float]:
    """Rates all paths of a cell that begin with `prefix`.

    The rating of a path is mean|imitation - feature| divided by the standard deviation of the feature, both over all
    images. Lower is better. The division makes ratings of blocks with features of different scales comparable.

    Args:
        cell: The cell; the running statistics of its batch norms are restored at the end.
        prefix: First choices; empty for all paths.
        calibration: Returns the batches for measuring the statistics, the same ones at each call.
        images: Returns the held-out batches, the same ones at each call; the batch size does not change the ratings.

    Returns:
        The ratings in the order of `BlockCell.paths`.

    Raises:
        ValueError: There are no images, or the feature is constant.
    """
    return _rate(cell, _narrow(cell.steps(), prefix), calibration, images)


def _rate(owner: nn.Module, steps: Sequence[Alternatives], calibration: Batches, images: Batches) -> list[float]:
    """Rates all paths through `steps`, which are parts of `owner`."""
    spread = _Spread()
    errors: dict[Node, float] = {}
    with _statistics(owner) as statistics:
        statistics.calibrate(steps, calibration)
        for x, target in images():
            spread.add(target)
            wanted = target.float()
            for leaf, output in _walk(steps, x, statistics.apply):
                # the difference in single precision, the sum in double
                error = float((output.float() - wanted).abs().sum(dtype=torch.float64))
                errors[leaf] = errors.get(leaf, 0.0) + error
    if not errors:
        raise ValueError('a rating needs at least one batch of held-out images, got none')
    if not spread.deviation > 0:
        raise ValueError("a rating needs a feature that varies, but all values of the teacher's feature are equal")
    return [error / spread.count / spread.deviation for _, error in sorted(errors.items())]


def rate_path(cell: BlockCell, path: FlatPath, calibration: Batches, images: Batches) -> float:
    """Rates one path as `rate` does; sharing first layers does not change the result."""
    (rating,) = rate(cell, path, calibration, images)
    return rating


@torch.no_grad()
def rate_network(net: nn.Module, calibration: Iterable[Tensor], images: Iterable[Batch]) -> float:
    """Rates a network without choices as `rate` rates a path.

    Args:
        net: Maps an input to the imitation; the running statistics of its batch norms are restored at the end.
        calibration: Batches ``(N, C, H, W)`` for measuring the statistics, gone through once.
        images: Held-out batches with the features to imitate, gone through once.

    Raises:
        ValueError: There are no batches, or the feature is constant.
    """
    batches = ((x, x) for x in calibration)
    (rating,) = _rate(net, [(net,)], lambda: batches, lambda: images)
    return rating


@torch.no_grad()
def imitate(cell: BlockCell, path: FlatPath, calibration: Batches, x: Tensor) -> Tensor:
    """Returns the output of one path for `x` ``(N, C, H, W)`` with the path's own batch-norm statistics."""
    steps = _narrow(cell.steps(), path)
    with _statistics(cell) as statistics:
        statistics.calibrate(steps, calibration)
        ((_, output),) = _walk(steps, x, statistics.apply)
    return output


def walk_memory(cell: BlockCell, x: Tensor) -> int:
    """Bytes that walking a cell's tree with a batch `x` ``(N, C, H, W)`` holds at most, estimated.

    One feature per layer, and the inside of the layer that is being computed.
    """
    held, widest = x.numel(), 0
    shape = x.shape
    with torch.no_grad(), _statistics(cell):
        sample = x[:1]
        for alternatives in cell.steps():
            largest = max(alternatives, key=lambda m: 0 if m is None else sum(p.numel() for p in m.parameters()))
            hidden = _hidden(largest, sample)
            sample = sample if largest is None else largest.eval()(sample)
            held += sample.numel() * shape[0]
            widest = max(widest, hidden * shape[0])
    return 4 * (held + 2 * widest)


def _hidden(module: nn.Module | None, x: Tensor) -> int:
    """Floats inside a layer for one image."""
    convs = [m for m in (module.modules() if module is not None else ()) if isinstance(m, nn.Conv2d)]
    return max((conv.out_channels for conv in convs), default=0) * x.shape[2] * x.shape[3]


def _narrow(steps: Sequence[Alternatives], prefix: FlatPath) -> list[Alternatives]:
    """Returns the steps with the layers of the prefix reduced to its choices; the first and last steps are adapters."""
    narrowed = list(steps)
    for layer, choice in enumerate(prefix, start=1):
        narrowed[layer] = (steps[layer][choice],)
    return narrowed


def _walk(
    steps: Sequence[Alternatives], x: Tensor, run: Callable[[nn.Module, Node, Tensor], Tensor], node: Node = ()
) -> Iterator[tuple[Node, Tensor]]:
    """Yields every path's output, depth first; `node` has the choices of the steps so far."""
    if not steps:
        yield node, x
        return
    for choice, module in enumerate(steps[0]):
        here = (*node, choice)
        yield from _walk(steps[1:], x if module is None else run(module, here, x), run, here)


class _Statistics:
    """Batch-norm statistics of every node of the tree, averaged over calibration batches."""

    def __init__(self) -> None:
        self.batches = 0
        self._sums: dict[Node, list[tuple[Tensor, Tensor]]] = {}

    def calibrate(self, steps: Sequence[Alternatives], calibration: Batches) -> None:
        """Measures the statistics of the whole tree on each of the batches."""
        for x, _ in calibration():
            self.batches += 1
            for _ in _walk(steps, x, self.measure):
                pass
        if not self.batches:
            raise ValueError('calibration needs at least one batch of images, got none')

    def measure(self, module: nn.Module, node: Node, x: Tensor) -> Tensor:
        """Runs a module with the statistics of its batch and adds them to the node's sums."""
        norms = _norms(module)
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # so that the running statistics are those of this batch
        output: Tensor = module(x)
        found = [(_values(norm.running_mean), _values(norm.running_var)) for norm in norms]
        before = self._sums.get(node)
        if before is None:
            self._sums[node] = found
        else:
            for (mean, var), (more_mean, more_var) in zip(before, found, strict=True):
                mean += more_mean
                var += more_var
        return output

    def apply(self, module: nn.Module, node: Node, x: Tensor) -> Tensor:
        """Runs a module with the node's average statistics."""
        for norm, (mean, var) in zip(_norms(module), self._sums[node], strict=True):
            norm.eval()
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean / self.batches)
            norm.running_var.copy_(var / self.batches)
        output: Tensor = module(x)
        return output


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def _values(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, 'norms of a student have running statistics'
    return tensor.clone()


@contextmanager
def _statistics(owner: nn.Module) -> Iterator[_Statistics]:
    """Gives an empty `_Statistics`; restores the state of the norms at the end."""
    norms = _norms(owner)
    kept = [(norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    modes = [(module, module.training) for module in owner.modules()]
    try:
        yield _Statistics()
    finally:
        for norm, (momentum, buffers) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes:
            module.training = mode
