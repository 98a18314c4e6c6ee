"""``mmnas export``."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command

if TYPE_CHECKING:
    from mmnas_ext.runs.exporting import Subject

KEYS = ('mbnet', 'timm', 'torchvision')  # those of mmnas_ext.remap.renaming, which would import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what an export can be told."""
    parser.add_argument(
        'source',
        metavar='SOURCE',
        help="a backbone: a search's derived/arch.json, FNA text, a zoo name; or a whole model: the work dir of a run "
        'that has ended, or the config that trained it, with --weights',
    )
    parser.add_argument(
        '--weights', help='checkpoint of this network; of a backbone of any known layout (default: none)'
    )
    written = parser.add_argument_group('what is written, at least one of these')
    written.add_argument('--onnx', metavar='FILE', help='a graph for onnxruntime and others (default: none)')
    written.add_argument('--torch-export', metavar='FILE', help='a graph that torch.export.load reads (default: none)')
    written.add_argument('--state-dict', metavar='FILE', help='plain weights (default: none)')
    written.add_argument(
        '--timm',
        nargs='?',
        const='-',
        metavar='FILE',
        help="timm's block strings, printed without FILE; beside blocks.json, blocks.py builds them (default: none)",
    )
    written.add_argument(
        '--name', help='a module that registers the backbone by this name, e.g. MyNet, in my_net.py (default: none)'
    )
    parser.add_argument('--out', default='work_dirs/backbones', help='folder of the module of --name, made if missing')
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')
    parser.add_argument(
        '--keys', choices=KEYS, help="of --state-dict: the backbone alone, by these keys (default: the network's own)"
    )
    parser.add_argument(
        '--input-size', type=int, nargs=2, metavar=('H', 'W'), default=(224, 320), help='of the image that is run'
    )
    parser.add_argument('--image', metavar='FILE', help='real image that is run too (default: one of Matplotlib)')
    parser.add_argument(
        '--out-indices',
        type=int,
        nargs='+',
        metavar='I',
        help='stages of a backbone (default: 1 2 4 6, or the last)',
    )
    parser.add_argument('--output-stride', type=int, choices=(8, 16, 32), default=32, help='of a backbone')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Writes what is asked for; what is written has been run and compared."""
    asked = [args.onnx, args.torch_export, args.state_dict, args.timm, args.name]
    if not any(asked):
        parser.error('say what is to be written: --onnx, --torch-export, --state-dict, --timm or --name')
    if args.keys and not args.state_dict:
        parser.error('--keys says how --state-dict is written, and that is not asked for')
    try:
        _export(args)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))


def _export(args: argparse.Namespace) -> None:
    from mmnas_ext.runs.export_timm import timm_module
    from mmnas_ext.runs.exporting import ExportError, check_target, read_subject

    weighed = [args.onnx, args.torch_export, args.state_dict]
    blocks = args.timm if args.timm not in (None, '-') else None
    for file in (*weighed, blocks, blocks and timm_module(blocks)):
        if file:
            check_target(file, args.overwrite)  # all of them, before anything is written
    named = _network(args.source, args.weights) if args.name else None
    if any((*weighed, args.timm)):
        subject = read_subject(args.source, args.weights, args.out_indices, args.output_stride)
        if any(weighed) and not subject.state:
            raise ExportError('a network without weights is of no use elsewhere: name its checkpoint with --weights')
        for line in _write(args, subject):
            print(line)
    if named:
        _write_module(args, *named)


def _write(args: argparse.Namespace, subject: 'Subject') -> Iterator[object]:
    """Writes the files that are asked for; yields what is to be said of each."""
    from mmnas_ext.runs.export_graphs import write_onnx, write_torch
    from mmnas_ext.runs.exporting import real_image, write_state_dict, write_timm

    height, width = args.input_size
    for file, write in ((args.onnx, write_onnx), (args.torch_export, write_torch)):
        if file:
            yield write(subject, file, (height, width), real_image(args.image), args.overwrite)
    if args.state_dict:
        yield write_state_dict(subject, args.state_dict, args.keys or '', args.overwrite)
    if args.timm:
        yield write_timm(subject, None if args.timm == '-' else args.timm, args.overwrite)


def _write_module(args: argparse.Namespace, source: str | Path, weights: str | Path | None) -> None:
    from mmnas_ext.backbones.export import export_backbone

    done = export_backbone(source, args.name, Path(args.out), weights, args.overwrite)
    print('\n'.join(str(path) for path in done.files))
    print(f"in a config: custom_imports = dict(imports=['{done.module}']) and backbone=dict(type='{done.name}', ...)")
    print(f'run it with the folder on the path: PYTHONPATH={shlex.quote(args.out)} mmnas train CONFIG')


def _network(source: str, weights: str | None) -> tuple[str | Path, str | Path | None]:
    """What --name makes a module of: an arch as it is, of a work dir what was found and its newest checkpoint."""
    from mmnas_ext.runs.checkpoints import find_checkpoint
    from mmnas_ext.workdir import WorkDir

    if source.endswith('.py'):
        raise ValueError(
            f'--name takes a backbone, got {source}, a whole model: name its arch, <work dir>/derived/arch.json, with '
            '--weights its checkpoint, or the work dir'
        )
    if not Path(source).is_dir():
        return source, weights
    files = WorkDir(Path(source))
    if not files.arch.is_file():
        raise FileNotFoundError(f'--name takes the network that {source} has found, and {files.arch} does not exist')
    return files.arch, weights or find_checkpoint(files.adapt).path


COMMAND = Command(
    'write a network for use elsewhere: a graph, plain weights, block strings, or a backbone of its own name',
    'work_dirs/mine --onnx mine.onnx',
    add_arguments,
    run,
    """
Whatever is written is read back, run on a random and a real image and compared with PyTorch, or the
file is not left behind. The graph of a detector ends with the maps of its head (class scores and box
deltas per level), that of a segmentor with logits at the size of the image. --name makes
type='MyNet' in the config of any toolbox on MMEngine that imports the module written here.
""",
)
