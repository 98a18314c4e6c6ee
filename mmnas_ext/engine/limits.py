"""Cost limits of a search: what a space can reach, and the most probable network within a limit."""

import math

from mmnas_ext.archs import ArchSpec, Path, SearchSpace, candidate_costs, fixed_cost
from mmnas_ext.backbones import SuperNet
from mmnas_ext.search import front


def cost_range(space: SearchSpace, size: tuple[int, int], output_stride: int = 32) -> tuple[int, int]:
    """Multiply-adds of the cheapest and of the dearest network of a space, stem and fixed layers included."""
    table = [[cost.macs for cost in layer] for stage in candidate_costs(space, size, output_stride) for layer in stage]
    fixed = fixed_cost(space, size, output_stride).macs
    searched = [layer for layer in table if len(layer) > 1]
    return fixed + sum(map(min, searched)), fixed + sum(map(max, searched))


def check_target(space: SearchSpace, size: tuple[int, int], output_stride: int, target: float | None) -> None:
    """Raises ValueError, naming the reachable range, where no network of the space costs at most `target`."""
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise ValueError(f'cost.target must be a number of multiply-adds, got {target!r}')
    low, high = cost_range(space, size, output_stride)
    if not target >= low:
        raise ValueError(
            f'cost.target must be at least {low / 1e9:.4g} G multiply-adds, got {target / 1e9:.4g} G: '
            f'networks of this space cost {low / 1e9:.4g} G to {high / 1e9:.4g} G at {size[0]}x{size[1]}'
        )


def derive_path(supernet: SuperNet, target: float | None = None) -> Path:
    """The most probable path under softmax(alpha), of those that cost at most `target` multiply-adds.

    Without a target that is each layer's argmax (the first of equals). With one, the product of probabilities is
    maximised exactly: minus log-probabilities and costs both add up over layers.

    Raises:
        ValueError: No path costs at most `target`; names the reachable range.
    """
    layers = supernet.mixed_layers()
    if target is None:
        chosen = {name: int(layer.alpha.argmax()) for name, layer in layers.items()}
    else:
        check_target(supernet.space, supernet.input_size, supernet.output_stride, target)
        blocks = []
        for layer in layers.values():
            surprise = (-layer.alpha.detach().double().cpu().log_softmax(0)).tolist()
            blocks.append(list(zip((int(m) for m in layer.macs), surprise, strict=True)))
        # costs are whole numbers, the target need not be
        best = front(blocks).best(math.floor(target) - supernet.fixed_cost().macs)
        chosen = dict(zip(layers, (int(c) for c in best.choice), strict=True))
    return tuple(
        tuple(chosen.get(f'{i}.{j}', 0) for j in range(len(stage))) for i, stage in enumerate(supernet.layers())
    )


def derive(supernet: SuperNet, target: float | None = None) -> ArchSpec:
    """The network of `derive_path`, with the batch-norm epsilon that the super-network computes with."""
    return supernet.space.arch(derive_path(supernet, target)).replace(bn_eps=supernet.bn_eps)
