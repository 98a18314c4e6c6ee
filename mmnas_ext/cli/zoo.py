"""``mmnas zoo``."""

import argparse

from mmnas_ext.archs import ArchSpec, cost, places, pyramid, zoo
from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_size, pick

SIZE = (224, 224)
FORMATS = ('json', 'fna', 'timm')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a look into the zoo can be told."""
    parser.add_argument('name', nargs='?', metavar='NAME', help='print this network, or space, instead of the list')
    parser.add_argument('--format', choices=FORMATS, default='json', help='how a network is written')
    add_size(parser, ' '.join(map(str, SIZE)), '32')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints the list, or one entry."""
    with errors(ValueError):
        if args.name is None:
            print(list_networks(pick(args.input_size) or SIZE, args.output_stride or 32))
        else:
            print(describe(args.name, args.format))


def list_networks(size: tuple[int, int], output_stride: int) -> str:
    """All networks with their costs and outputs, then the spaces, as text.

    Args:
        size: Height and width of the image in pixels.
        output_stride: 8, 16 or 32.

    Raises:
        ValueError: They are out of range.
    """
    types = {name: kind for kind, name in zoo.TYPES.items()}
    rows = [('network', 'backbone type', 'parameters', 'MAdds', 'out_indices', 'out_channels', 'out_strides')]
    for name in zoo.names():
        arch = zoo.arch(name)
        counted = cost(arch, size, output_stride)
        channels, strides = outputs(arch, output_stride)
        costs = f'{counted.params / 1e6:.3f} M', f'{counted.macs / 1e6:.1f} M'
        rows.append((name, f'mmnas_ext.{types[name]}', *costs, spell(pyramid(arch)), spell(channels), spell(strides)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    sides = (str.ljust, str.ljust, str.rjust, str.rjust, str.ljust, str.ljust, str.ljust)
    lines = [
        '  '.join(side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows
    ]
    return '\n'.join(
        [
            *lines,
            '',
            f'Backbones without head, {size[0]}x{size[1]} pixels, output_stride={output_stride}; out_indices name the '
            'last stage of each stride; one multiply-add is one.',
            f'search spaces:   {", ".join(zoo.spaces())}',
            f'spaces of cells: {", ".join(zoo.cell_spaces())}',
        ]
    )


def outputs(arch: ArchSpec, output_stride: int = 32) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the last stage of each stride of a network."""
    stages = places(arch, output_stride=output_stride).stages
    last = [stages[index][-1] for index in pyramid(arch)]
    return tuple(place.channels for place in last), tuple(place.reached for place in last)


def spell(numbers: tuple[int, ...]) -> str:
    """Numbers as a config has them."""
    return f'[{", ".join(map(str, numbers))}]'


def describe(name: str, form: str = 'json') -> str:
    """One network, or space, as text that a config or command reads back.

    Args:
        name: Of the zoo.
        form: Of a network, 'json', 'fna' or 'timm'; a space is JSON.

    Raises:
        ValueError: The zoo has no such entry, or it cannot be written so.
    """
    if name in zoo.names():
        return zoo.arch(name).format(form)
    if name in zoo.spaces() or name in zoo.cell_spaces():
        if form != 'json':
            raise ValueError(f'--format {form} is for networks, and {name} is a space, which is written as JSON')
        return zoo.space(name).format() if name in zoo.spaces() else zoo.cells(name).format()
    known = ', '.join(dict.fromkeys([*zoo.names(), *zoo.spaces(), *zoo.cell_spaces()]))
    raise ValueError(f'the zoo has no {name!r:.60}: it has {known}')


COMMAND = Command(
    'list the networks of the zoo with costs, out_channels and out_strides, or print one',
    'fna_retinanet --format fna',
    add_arguments,
    run,
    """
out_channels are what a neck or head takes as in_channels, in a config such as
  backbone=dict(_delete_=True, type='mmnas_ext.FNA_RetinaNet'), neck=dict(in_channels=[24, 32, 96, 320])
""",
)
