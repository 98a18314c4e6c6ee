"""Colours of every figure: the Okabe-Ito set, which the colour-blind can tell apart.

Okabe and Ito, "Color Universal Design", 2008. A kernel has the same colour in all figures; expansion is never
shown by colour alone (box height there, line style here), so that a print in grey still reads.
"""

from mmnas_ext.archs import SKIP, BlockSpec

_KERNELS = {3: '#0072B2', 5: '#E69F00', 7: '#009E73', 9: '#CC79A7', 1: '#56B4E9'}
_OTHER_KERNEL = '#D55E00'

# Matplotlib's: offset, and lengths of dashes and gaps in line widths.
LineStyle = tuple[float, tuple[float, ...]]
SOLID: LineStyle = (0, ())
DASHED: LineStyle = (0, (4, 1.6))
DOTTED: LineStyle = (0, (1, 1.2))
_LINE_STYLES = (SOLID, DASHED, (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))

INK = '#1F2430'
FAINT = '#5B6373'
RULE = '#C9CED8'
PANEL = '#F1F3F6'
PAPER = '#FFFFFF'
ACCENT = '#D55E00'
FOUND = '#3B4A63'
SEED = '#B3BAC7'

DARK = {
    INK: '#E6E9EF', FAINT: '#A2AAB8', RULE: '#3A4252', PANEL: '#1E232D', PAPER: '#13161C', ACCENT: '#FF8B3E',
    FOUND: '#9CB6DE', SEED: '#687284', _KERNELS[3]: '#4FB0E8', _KERNELS[5]: '#F0B93F', _KERNELS[7]: '#2FC79B',
}  # fmt: skip
"""What a page shows instead of a colour where it is dark."""


def kernel_colour(kernel: int) -> str:
    """Colour of a kernel side."""
    return _KERNELS.get(kernel, _OTHER_KERNEL)


def tint(colour: str, strength: float) -> str:
    """`colour` mixed with white; strength 0 is white, 1 the colour itself."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return '#' + ''.join(f'{round(255 - (255 - part) * strength):02X}' for part in parts)


def candidate_styles(tokens: tuple[str, ...]) -> dict[str, tuple[str, LineStyle]]:
    """Colour and line style of distinct candidates: colour by kernel, style by all else, the widest drawn solid."""
    specs = {token: BlockSpec.parse(token) for token in tokens if token != SKIP}
    kinds = sorted({spec.look for spec in specs.values()}, reverse=True)
    styles: dict[str, tuple[str, LineStyle]] = {token: (INK, DOTTED) for token in tokens}
    for token, spec in specs.items():
        rank = kinds.index(spec.look)
        styles[token] = (kernel_colour(spec.kernel), _LINE_STYLES[rank % len(_LINE_STYLES)])
    return styles


def candidate_dashes(tokens: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Colour and plotly's name of the line style of candidates, as `candidate_styles` has them."""
    names = {**dict(zip(_LINE_STYLES, ('solid', 'dash', 'dashdot', 'longdash'), strict=True)), DOTTED: 'dot'}
    return {token: (colour, names[style]) for token, (colour, style) in candidate_styles(tokens).items()}
