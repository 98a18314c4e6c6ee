"""The words of the page, explained where they are met."""

from collections.abc import Collection
from html import escape

WORDS = {
    'k3_e6': 'A candidate layer (MBConv): depthwise convolution with a 3×3 kernel, on 6 times the input channels '
    '(expansion 6). _se0.25 adds squeeze-excite; skip is no layer at all. fused_k3_e4 has one 3×3 convolution in place '
    "of the first two; basic_ and bottleneck_ are ResNet's blocks, whose expansion counts from the output channels.",
    'alpha': 'A number per candidate that the search learns. softmax(alpha) is the probability that the search gives '
    'to each candidate of a layer: equal at the start, and all but 0 or 1 where a layer is decided.',
    'arch step': 'A training step that changes alpha and no weights, on a half of the images of its own. Weight steps '
    'change the weights of a path that is drawn at random. Arch steps begin when the weights have learned something.',
    'seed': 'The pretrained network that the search starts from: its weights are remapped to all candidates.',
    'super-network': 'All candidates of all layers at once, sharing weights; what is measured in it ranks networks, '
    'and is lower than what a network reaches once it is trained.',
    'rating': "How well a block's path imitates the teacher's block on held-out images: the mean absolute error over "
    'the standard deviation of the feature. Lower is better; ratings of blocks add up.',
    'MAdds': 'Multiply-adds of stem and stages for one image of the given size, a multiplication and an addition '
    'counted as one. Necks and heads are not in it.',
    'front': 'Networks that the search found along the cost; as measured, a cheaper one may well be better than a '
    "dearer one. K is a network's number on it. The rated front of a distillation is exact: of its networks none is "
    'both cheaper and better than another.',
    'certainty': 'The probability that the chosen candidate is better than the runner-up: 50% is a coin, 95% counts as '
    'decided.',
    'limit': 'What the found network may cost at most, or must at least.',
    'adaptation': 'The ordinary training of the network that was found, from remapped weights.',
    'entropy': 'Of softmax(alpha), over its maximum: 1 is undecided, 0 is decided.',
}  # fmt: skip
"""What each word means, in the order in which the page explains them."""


def glossary_html(left_out: Collection[str] = ()) -> str:
    """The list of words, without those that a page does not use."""
    rows = ''.join(f'<dt>{escape(w)}</dt><dd>{escape(text)}</dd>\n' for w, text in WORDS.items() if w not in left_out)
    return f'<dl class="words">\n{rows}</dl>\n'
