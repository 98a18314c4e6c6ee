"""Networks side by side on the page: a row per stage, a box per layer, and each stage's share of the multiply-adds."""

from collections.abc import Sequence
from html import escape

from mmnas_ext.archs import SKIP, ArchSpec, BlockSpec, SearchSpace, StageSpec, places
from mmnas_ext.reports.facts import Facts
from mmnas_ext.reports.log import searched_layers
from mmnas_ext.reports.markup import details_html, pre_html
from mmnas_ext.reports.network import stage_macs
from mmnas_ext.reports.palette import INK, candidate_dashes, kernel_colour
from mmnas_ext.reports.result import Network, Result
from mmnas_ext.reports.table import format_count, format_size

_SIDE_BY_SIDE = 2
# a style sheet's nearest to a line of plotly's
_BORDERS = {'solid': 'solid', 'dash': 'dashed', 'dashdot': 'double', 'longdash': 'ridge', 'dot': 'dotted'}


def networks_html(result: Result, facts: Facts) -> str:
    """Seed and found network side by side, and those of the front folded away, each with its text."""
    rows = [each for each in result.networks if each.arch is not None]
    first = [each for each in rows if each.kind in ('seed', 'found')][:_SIDE_BY_SIDE]
    if not first:
        return ''
    body = _legend([each.arch for each in rows if each.arch]) + _grid(first, facts)
    others = [each for each in rows if each.kind == 'front']
    base = next((each for each in rows if each.kind == 'found'), None)
    folded = ''.join(
        f'<h3>{escape(each.title)}</h3>{_grid([*([base] if base else []), each], facts)}' for each in others
    )
    texts = ''.join(
        f'<h3>{escape(each.title)}</h3>{pre_html(each.arch.format("fna").replace("|[", chr(124) + chr(10) + "["))}'
        for each in rows
        if each.arch
    )
    return body + details_html(_count(len(others)), folded) + details_html('As text, which --arch takes', texts)


def _count(others: int) -> str:
    return f'{others} other {"network" if others == 1 else "networks"} of the front, each beside the found one'


def candidates_html(space: SearchSpace) -> str:
    """The lines that stand for the candidates of a space in the charts of alpha."""
    tokens = dict.fromkeys(token for i, j in searched_layers(space) for token in space.stages[i].layers[j])
    keys = []
    for token, (colour, dash) in candidate_dashes(tuple(tokens)).items():
        border = _BORDERS[dash]
        colour = 'var(--ink)' if colour == INK else colour
        keys.append(f'<span><i class="key" style="border-top:3px {border} {colour}"></i>{escape(token)}</span>')
    return f'<div class="legend">{"".join(keys)}<span>bold: leads at the end</span></div>\n'


def _legend(archs: Sequence[ArchSpec]) -> str:
    kernels = sorted({spec.kernel for arch in archs for stage in arch.stages for spec in stage.specs})
    named = [(kernel_colour(kernel), format_size((kernel, kernel))) for kernel in kernels]
    keys = ''.join(f'<span><i class="chip" style="--kernel:{c}"></i> {size} kernel</span>' for c, size in named)
    return (
        f'<div class="legend">{keys}<span>e6: expansion 6</span><span><i class="chip other"></i> other than the first '
        "network's layer</span><span>bar: multiply-adds of the stage</span></div>\n"
    )


def _grid(networks: Sequence[Network], facts: Facts) -> str:
    archs = [each.arch for each in networks if each.arch is not None]
    shares = [stage_macs(arch, facts.input_size, facts.output_stride) for arch in archs]
    most = max(max(row) for row in shares)
    cells = ['<div class="head corner">stage</div>']
    for each, arch in zip(networks, archs, strict=True):
        count = f'{format_count(each.costs["macs"], 3)} MAdds, {sum(arch.depths)} layers'
        cells.append(f'<div class="head">{escape(each.title)}<br><small>{count}</small></div>')
    for index in range(max(len(arch.stages) for arch in archs)):
        stages = [arch.stages[index] if index < len(arch.stages) else None for arch in archs]
        known = next(stage for stage in stages if stage is not None)
        where = places(archs[stages.index(known)], facts.input_size, facts.output_stride).stages[index][-1]
        label = f'stage {index} · {known.channels} channels<br>{format_size(where.out_size)}'
        cells.append(f'<div class="stage">{label}</div>')
        for stage, row in zip(stages, shares, strict=True):
            # a network's first share is its stem's
            macs = row[index + 1] if stage is not None else 0
            bar = f'<div class="share" style="width:{100 * macs / most:.1f}%"></div>'
            bar += f'<small>{format_count(macs, 3)}</small>'
            chips = _chips(stage, stages[0]) if stage is not None else ''
            cells.append(f'<div class="layers"><div class="chips">{chips}</div>{bar}</div>')
    return f'<div class="net" style="--nets:{len(archs)}">\n{"".join(cells)}</div>\n'


def _words(spec: BlockSpec) -> str:
    """A layer in words; of the kinds MBConv goes without saying."""
    kind = spec.prefix.replace('_', ' ')
    return f'{kind}{format_size((spec.kernel, spec.kernel))} kernel, expansion {spec.expansion}'


def _chips(stage: StageSpec, base: StageSpec | None) -> str:
    chips = []
    compared = base is not None and base is not stage
    for index, token in enumerate(stage.layers):
        other = compared and base is not None and (index >= len(base.layers) or base.layers[index] != token)
        spec = BlockSpec.parse(token) if token != SKIP else None
        colour = kernel_colour(spec.kernel) if spec else 'var(--rule)'
        words = _words(spec) if spec else 'no layer'
        kind = 'chip other' if other else 'chip'
        chips.append(f'<span class="{kind}" style="--kernel:{colour}" title="{words}">{escape(token)}</span>')
    gone = len(base.layers) - len(stage.layers) if compared and base is not None else 0
    chips += [f'<span class="chip other" title="a layer less">{SKIP}</span>'] * max(0, gone)
    return ''.join(chips)
