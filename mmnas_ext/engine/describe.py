"""What a search is about to do, in words, before it starts."""

from collections.abc import Collection
from math import prod
from typing import Any

from mmengine.dist import get_world_size
from torch import nn

from mmnas_ext.archs import (
    METRICS,
    SKIP,
    ArchSpec,
    BlockSpec,
    Limit,
    Place,
    Prices,
    SearchSpace,
    cell_prices,
    places,
    prices,
)
from mmnas_ext.archs.metrics import show
from mmnas_ext.backbones import SuperNet
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.host_control import HostControl
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.ops.mixture import WIDE
from mmnas_ext.search.select import reachable

_FLOAT = 4  # bytes
# tensors that a convolution with norm and activation keeps for the backward pass: the norm's input, the activation's
# (a copy, as it works in place) and its output
_KEPT = 3


def describe_search(runner: Any, supernet: SuperNet) -> str:
    """The plan of a search as lines of text: space, costs, steps of each phase, memory."""
    loop = runner.train_loop
    alternation = loop.alternation
    size, space = supernet.input_size, supernet.space
    term, priced = runner.optim_wrapper.cost, runner.optim_wrapper.prices
    batch = runner.train_dataloader.batch_size or runner.train_dataloader.batch_sampler.batch_size
    weights = alternation.arch_start
    both = loop.max_iters - weights
    with_cp = any(layer.with_cp for layer in supernet.mixed_layers().values())
    fused = next(supernet.parameters()).device.type == 'cpu'
    read = [int(index.partition('.')[0]) for index in supernet.out_indices if isinstance(index, str)]
    memory = arch_step_memory(space, size, batch, supernet.output_stride, with_cp, fused, read)
    of = '' if runner.optim_wrapper.host is None else ', of the whole detector'
    macs = priced if runner.optim_wrapper.host is None else prices(space, size, supernet.output_stride)
    lines = [
        'what this search will do:',
        f'  space         {space.size:.3g} networks, {_ranges(supernet, macs)} at {size[0]}x{size[1]}',
        f'  seed          {_seed_cost(supernet, term)}',
        *_host(runner.optim_wrapper.host, priced),
        f'  limit         {_limit(term, priced)}{of}',
        f'  weights only  {weights} iterations of {batch * get_world_size()} images',
        f'  alternating   {both} iterations with {alternation.arch_steps(loop.max_iters)} arch steps',
        f'  memory        about {memory / 2**30:.2g} GiB for the activations of an arch step in the backbone, '
        f'per process, at {size[0]}x{size[1]}',
    ]
    if loop.iter:
        lines.append(f'  resumed       {loop.iter} of {loop.max_iters} iterations are done')
    return '\n'.join(lines)


def describe_distillation(distiller: BlockDistiller, iterations: int, batch: int, staged: bool) -> str:
    """The plan of a distillation as lines of text: blocks, paths, costs, steps.

    Args:
        distiller: The distiller.
        iterations: Of the loop.
        batch: Images of a step, per process.
        staged: Whether blocks are trained one after the other.
    """
    space, size = distiller.space, distiller.input_size
    counted = [name for name, metric in METRICS.items() if not metric.measured]
    ranges = ', '.join(show(name, *reachable(space, cell_prices(space, size, 32, name))) for name in counted)
    lines = [
        'what this distillation will do:',
        f'  space         {space.size:.3g} networks, {ranges} at {size[0]}x{size[1]}',
        f'  steps         {iterations} of {batch} images, '
        + ('blocks one after the other' if staged else 'all blocks in each'),
    ]
    for index, block in enumerate(distiller.all_blocks()):
        tap = distiller.teacher.taps[block.plan.target]
        cells = block.all_cells()
        adapted = any(cell.leave is not None or isinstance(cell.enter, nn.Conv2d) for cell in cells)
        mine = '' if index in distiller.trained else ', not trained here'
        lines.append(
            f'  block {index}       stages {", ".join(map(str, block.plan.stages))} imitate {tap.channels} channels at '
            f'stride {tap.stride}: {len(cells)} cells, {block.size} paths{", adapters" if adapted else ""}{mine}'
        )
    return '\n'.join(lines)


def arch_step_memory(
    space: SearchSpace,
    size: tuple[int, int],
    batch: int,
    output_stride: int = 32,
    with_cp: bool = False,
    fused: bool = False,
    read_inside: Collection[int] = (),
) -> int:
    """Bytes of the activations that an arch step in float32 keeps for its backward pass, estimated.

    With checkpoints per layer that is every layer's input, and the largest layer's inside.

    Args:
        space: The space.
        size: Height and width of a training image.
        batch: Images per process.
        output_stride: As in `cost`.
        with_cp: Whether layers are checkpointed.
        fused: Whether `ops.mixture` computes the layers that it can, as it does on a CPU.
        read_inside: Stages whose first layer's expansion is a feature, which `ops.mixture` leaves to the modules.
    """
    inside: list[int] = []
    between: list[int] = []
    again: list[int] = []
    for place in places(space, size, output_stride).layers:
        # weights have no gradients, so nothing is kept before the first alpha, and of its layer what it weighs
        if not inside and len(place.tokens) == 1:
            continue
        if fused and _fuses(space, place) and (place.layer or place.stage not in read_inside):
            between.append(_fused_memory(place, flows=False))
            inside.append(_fused_memory(place, flows=bool(inside)))
        else:
            between.append(place.in_channels * prod(place.size))
            inside.append(_layer_memory(place, space.act, flows=bool(inside)))
            again.append(inside[-1])
    total = sum(between) + max(again, default=0) if with_cp else sum(inside)
    return batch * total * _FLOAT


def _fuses(space: SearchSpace, place: Place) -> bool:
    """Whether `ops.mixture` computes a layer."""
    convs = [[conv.name for conv in place.convs(token)] for token in place.tokens if token != SKIP]
    acts = {BlockSpec.parse(token).act or space.act for token in place.tokens if token != SKIP}
    plain = all(names == ['expand', 'depthwise', 'project'] for names in convs)
    return len(place.tokens) > 1 and plain and acts <= {'relu', 'relu6'}


def _fused_memory(place: Place, flows: bool) -> int:
    """Floats that `ops.mixture` keeps of one image; without a gradient for the input the same as with checkpoints."""
    names = ['project']
    if flows:
        names += ['depthwise'] if place.in_channels < WIDE else ['depthwise', 'expand']
    return place.in_channels * prod(place.size) + sum(
        conv.channels * positions
        for token in place.tokens
        if token != SKIP
        for conv, positions in place.outputs(token)
        if conv.name in names
    )


def _layer_memory(place: Place, act: str, flows: bool) -> int:
    """Floats that a layer keeps of one image; `flows` says whether its input has a gradient."""
    kept = place.in_channels * prod(place.size)
    weighed = place.channels * prod(place.out_size) if len(place.tokens) > 1 else 0
    for token in place.tokens:
        if token == SKIP:
            continue
        # what squeeze-excite keeps is next to nothing
        convs = [(conv, positions) for conv, positions in place.outputs(token) if not conv.pooled]
        block = BlockSpec.parse(token)
        # a ReLU needs its output alone
        active = _KEPT - ((block.act or act) == 'relu')
        inner = sum(conv.channels * positions * (active if conv.act else 1) for conv, positions in convs)
        # the activation of a sum keeps one of its ends
        inner += place.channels * prod(place.out_size) * block.ends_active
        kept += weighed + (inner if flows else 0)
    return kept


def _host(host: HostControl | None, priced: Prices) -> list[str]:
    """The host's choices, and what whole detectors cost in the config's own host."""
    if host is None:
        return []
    choices = host.choices
    count, own = len(choices.all()), choices.own.format()
    whole = priced.show(*priced.range())
    return [f'  host          {count} choices up to {choices.widest.format()}; whole detectors of {own}: {whole}']


def _limit(term: CostTerm, priced: Prices) -> str:
    """The limit, and which of its bounds all networks meet anyway."""
    return 'none' if term.limit == Limit() else '; '.join([term.limit.show(priced.by), *term.slack(priced)])


def _ranges(supernet: SuperNet, priced: Prices) -> str:
    """What the space reaches in multiply-adds, and by the metric of the search where that is another one."""
    macs = prices(supernet.space, supernet.input_size, supernet.output_stride)
    return ', '.join(each.show(*each.range()) for each in ((macs,) if priced.metric == 'macs' else (macs, priced)))


def _seed_cost(supernet: SuperNet, term: CostTerm) -> str:
    init = supernet.init_cfg if isinstance(supernet.init_cfg, dict) else {}
    seed = init.get('seed')
    if seed is None:
        return 'none named: weights are initialised at random, or the checkpoint says which'
    if not isinstance(seed, dict) or seed.get('arch') is None:
        return 'of unknown architecture until its file is here: name it, seed=dict(arch=…, checkpoint=…)'
    return term.describe(ArchSpec.parse(seed['arch']), supernet.input_size, supernet.output_stride)
