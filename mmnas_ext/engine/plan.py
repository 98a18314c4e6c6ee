"""What a search is about to do, in words, before it starts."""

from typing import Any

from mmengine.dist import get_world_size

from mmnas_ext.archs import SKIP, ArchSpec, Block, SearchSpace, cost
from mmnas_ext.archs.cost import effective_strides
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.limits import cost_range

_FLOAT = 4  # bytes
# tensors that a convolution with norm and activation keeps for the backward pass: its output and the norm's output
_KEPT = 2


def describe_search(runner: Any, supernet: SuperNet) -> str:
    """The plan of a search as lines of text: space, costs, steps of each phase, memory."""
    loop = runner.train_loop
    alternation = loop.alternation
    size, space = supernet.input_size, supernet.space
    low, high = cost_range(space, size, supernet.output_stride)
    batch = runner.train_dataloader.batch_size or runner.train_dataloader.batch_sampler.batch_size
    weights = alternation.arch_start
    both = loop.max_iters - weights
    with_cp = any(layer.with_cp for layer in supernet.mixed_layers().values())
    memory = arch_step_memory(space, size, batch, supernet.output_stride, with_cp)
    lines = [
        'what this search will do:',
        f'  space         {space.size:.3g} networks, {low / 1e9:.4g} to {high / 1e9:.4g} G multiply-adds '
        f'at {size[0]}x{size[1]}',
        f'  seed          {_seed_cost(supernet)}',
        f'  limit         {_limit(runner.optim_wrapper.cost_target)}',
        f'  weights only  {weights} iterations of {batch * get_world_size()} pictures',
        f'  alternating   {both} iterations with {alternation.arch_steps(loop.max_iters)} arch steps',
        f'  memory        about {memory / 2**30:.2g} GiB for the activations of an arch step in the backbone, '
        f'per process, at {size[0]}x{size[1]}',
    ]
    if loop.iter:
        lines.append(f'  resumed       {loop.iter} of {loop.max_iters} iterations are done')
    return '\n'.join(lines)


def arch_step_memory(
    space: SearchSpace, size: tuple[int, int], batch: int, output_stride: int = 32, with_cp: bool = False
) -> int:
    """Bytes of the activations that an arch step in float32 keeps for its backward pass, estimated.

    With checkpoints per layer that is every layer's input, and the largest layer's inside.

    Args:
        space: The space.
        size: Height and width of a training picture.
        batch: Pictures per process.
        output_stride: As in `cost`.
        with_cp: Whether layers are checkpointed.
    """
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    inside: list[int] = [_KEPT * space.stem_channels * height * width]
    between: list[int] = [0]
    for stage, stride in zip(space.stages, effective_strides(space.stages, output_stride), strict=True):
        channels = stage.in_channels
        for tokens in stage.layers:
            area = height * width
            height, width = -(-height // stride), -(-width // stride)
            kept = 0
            for token in tokens:
                if token == SKIP:
                    kept += stage.channels * height * width
                    continue
                block = Block.parse(token)
                hidden = block.hidden(channels)
                expanded = hidden * area if block.expansion > 1 else 0
                kept += _KEPT * (expanded + hidden * height * width + stage.channels * height * width)
            inside.append(kept)
            between.append(channels * area)
            channels, stride = stage.channels, 1
    total = sum(between) + max(inside) if with_cp else sum(inside)
    return batch * total * _FLOAT


def _seed_cost(supernet: SuperNet) -> str:
    init = supernet.init_cfg if isinstance(supernet.init_cfg, dict) else {}
    seed = init.get('seed')
    if not isinstance(seed, dict) or 'arch' not in seed:
        return 'none named: weights are initialised at random, or the checkpoint says which'
    macs, params = cost(ArchSpec.parse(seed['arch']), supernet.input_size, supernet.output_stride)
    return f'{macs / 1e9:.4g} G multiply-adds, {params / 1e6:.4g} M parameters'


def _limit(target: float | None) -> str:
    return 'none' if target is None else f'at most {target / 1e9:.4g} G multiply-adds'
