"""Makes an architecture a backbone of its own, e.g. python tools/export_backbone.py derived/arch.json --name MyNet.

It is then `type='MyNet'` in the config of any toolbox on MMEngine that imports the module written here.
"""

import argparse
from collections.abc import Sequence

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.backbones.export import FOLDER, export_backbone
    from mmnas_ext.cli import shorten


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the backbone that it describes."""
    parser = argparse.ArgumentParser(description='Write a module that registers one architecture as a backbone.')
    parser.add_argument('arch', metavar='ARCH', help="a .json path such as a search's derived/arch.json, FNA text, …")
    parser.add_argument('--name', required=True, help='of the class and in configs, e.g. MyNet, written to my_net.py')
    parser.add_argument('--weights', help='checkpoint of this network, of any known layout, to start from by default')
    parser.add_argument('--out', default=str(FOLDER), help=f'folder to write to, made if missing (default: {FOLDER})')
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier export wrote')
    given = parser.parse_args(argv)
    try:
        done = export_backbone(given.arch, given.name, given.out, given.weights, given.overwrite)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print('\n'.join(str(path) for path in done.files))
    print(f"in a config: custom_imports = dict(imports=['{done.module}']) and backbone=dict(type='{done.name}', …)")
    print(f'run it with the folder on the path: PYTHONPATH={given.out} python tools/train.py CONFIG')


if __name__ == '__main__':
    main()
