"""``mmnas export``."""

import argparse

from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what an export can be told."""
    parser.add_argument('arch', metavar='ARCH', help="a .json path such as a search's derived/arch.json, FNA text, …")
    parser.add_argument('--name', required=True, help='of the class and in configs, e.g. MyNet, written to my_net.py')
    parser.add_argument(
        '--weights', help='checkpoint of this network, of any known layout, to start from by default (default: none)'
    )
    parser.add_argument('--out', default='work_dirs/backbones', help='folder to write to, made if missing')
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier export wrote')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Writes the backbone that is described."""
    from mmnas_ext.backbones.export import export_backbone

    try:
        done = export_backbone(args.arch, args.name, args.out, args.weights, args.overwrite)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print('\n'.join(str(path) for path in done.files))
    print(f"in a config: custom_imports = dict(imports=['{done.module}']) and backbone=dict(type='{done.name}', …)")
    print(f'run it with the folder on the path: PYTHONPATH={args.out} mmnas train CONFIG')


COMMAND = Command(
    'write a module that registers one architecture as a backbone of its own',
    'work_dirs/mine/derived/arch.json --name MyNet',
    add_arguments,
    run,
    """
It is then type='MyNet' in the config of any toolbox on MMEngine that imports the module written here.
""",
)
