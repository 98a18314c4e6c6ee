"""``mmnas space``."""

import argparse
from pathlib import Path

from mmnas_ext.archs import ArchSpec, SearchSpace, cost, prices, zoo
from mmnas_ext.archs.from_seed import KERNELS, WIDTHS, space_from
from mmnas_ext.archs.metrics import show
from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_size, pick
from mmnas_ext.cli.zoo import SIZE
from mmnas_ext.workdir import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the making of a space can be told."""
    parser.add_argument(
        '--seed',
        required=True,
        help='network that it is made from: a zoo name, a .json file, FNA text, or a checkpoint',
    )
    parser.add_argument(
        '--kernels', type=int, nargs='+', metavar='K', default=KERNELS,
        help=f'sides of the kernels (default: {" ".join(map(str, KERNELS))})',
    )  # fmt: skip
    parser.add_argument(
        '--expansions', type=float, nargs='+', metavar='E', help='expansions, as in a token (default: see --widths)'
    )
    parser.add_argument(
        '--widths', type=float, nargs='+', metavar='X',
        help=f"multiples of the seed's own expansion in each layer (default: {' '.join(f'{w:g}' for w in WIDTHS)})",
    )  # fmt: skip
    parser.add_argument(
        '--depth', type=int, nargs='+', metavar='N', default=[0],
        help='layers in addition that may be skipped, for all stages or one number for each (default: 0)',
    )  # fmt: skip
    parser.add_argument('--out', help='.json file to write (default: print the space, and the summary to stderr)')
    add_size(parser, ' '.join(map(str, SIZE)), '32')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Makes a space, writes or prints it, and says how many networks it has and what they cost."""
    import sys

    with errors():
        if args.out and Path(args.out).suffix != '.json':
            raise ValueError(f'--out must be a .json file, by which a config reads it, got {args.out}')
        seed = read_seed(args.seed)
        depth = args.depth[0] if len(args.depth) == 1 else args.depth
        space = space_from(seed, args.kernels, args.expansions, args.widths, depth)
        told = describe(space, seed, pick(args.input_size) or SIZE, args.output_stride or 32)
        if args.out:
            write_text(Path(args.out), space.format())
            print(f'{args.out}: {told}')
            return
    print(space.format(), end='')
    print(told, file=sys.stderr)


def read_seed(text: str) -> ArchSpec:
    """The network that a text names: of the zoo, in a ``.json`` file, written out, or of a checkpoint's weights.

    Args:
        text: The text; a checkpoint is a file, or an address as in `load_seed`.

    Raises:
        ValueError: It is none of these, or the checkpoint cannot be read.
        FileNotFoundError: A file does not exist.
        ConnectionError: A URL cannot be read.
    """
    if text in zoo.names() or text.endswith('.json') or text.lstrip().startswith(('[', '{')):
        return ArchSpec.parse(text)
    if '://' not in text and not Path(text).expanduser().suffix:
        return ArchSpec.parse(text)  # whose message lists the names
    from mmnas_ext.remap import load_seed

    return load_seed(text).arch


def describe(space: SearchSpace, seed: ArchSpec, size: tuple[int, int], output_stride: int) -> str:
    """How many networks a space has, and what the cheapest, the seed and the most expensive cost.

    Args:
        space: The space.
        seed: The network that it is made from.
        size: Height and width of the image in pixels.
        output_stride: 8, 16 or 32.

    Raises:
        ValueError: Size or output stride are out of range.
    """
    least, most = prices(space, size, output_stride).range()
    own = cost(seed, size, output_stride).macs
    layers = [layer for stage in space.stages for layer in stage.layers]
    searched = sum(len(layer) > 1 for layer in layers)
    return (
        f'{space.size:.4g} networks, {searched} of {len(layers)} layers are searched; at {size[0]}x{size[1]} pixels '
        f'the smallest has {show("macs", least)}, the seed {show("macs", own)}, the largest {show("macs", most)}'
    )


COMMAND = Command(
    'make a search space from a network: its layers with other kernels, widths and depths',
    '--seed resnet50 --kernels 3 5 --widths 0.5 1 --depth 1 --out resnet50.space.json',
    add_arguments,
    run,
    """
The seed's own layer is always among the candidates, and from the second layer of a stage on so is skip.
A config takes the file, space='resnet50.space.json', or says how to make it from its own seed:
  space=dict(kernels=(3, 5), widths=(0.5, 1), depth=1)
""",
)
