"""Times the rating of all paths of a cell as a tree, and the rating of each path by itself.

Run: python benchmarks/rating_speed.py [--images 16] [--threads 2]

The cell is DNA's, 6 candidates in each of 4 layers (1296 paths), the 40-channel stage of images of 128 pixels. Both
sides calibrate batch norms and rate on as many images; ratings are compared path by path. Prints a table.
"""

import argparse
import platform
import time

import torch
from torch import Tensor

from mmnas_ext.archs import CellSpace
from mmnas_ext.distill import BlockDistiller, Teacher
from mmnas_ext.distill.rating import rate, rate_path, units

SPACE = dict(
    stem_channels=32,
    stages=[
        dict(stride=1, channels=[16], depths=[1], candidates=['k3_e1']),
        dict(stride=2, channels=[24], depths=[1], candidates=['k3_e6']),
        dict(
            stride=2,
            channels=[40],
            depths=[4],
            candidates=[f'k{kernel}_e{expansion}' for kernel in (3, 5, 7) for expansion in (3, 6)],
        ),
    ],
    bn_eps=1e-3,
)
TAPS = ['stages.1.1', 'stages.2.1']


def prepare_batches(images: int, device: str = 'cpu') -> tuple[BlockDistiller, list[tuple[Tensor, Tensor]]]:
    """Builds a distiller with one block to rate; returns it with a batch of the block's inputs and targets."""
    teacher = Teacher(backbone=dict(type='mmnas_ext.MBNet', arch='efficientnet_lite0', out_indices=(6,)), taps=TAPS)
    distiller = BlockDistiller(teacher, CellSpace.parse(SPACE), input_size=(128, 128), channels_last=True)
    distiller.init_weights()
    distiller.to(device)
    x = torch.randn(images, 3, 128, 128).to(device)
    distiller.calibrate([x])
    features = distiller.features(x)
    block = len(distiller.blocks) - 1
    plan = distiller.all_blocks()[block].plan
    return distiller, [(distiller.entering(block, x, features), features[plan.target])]


def main() -> None:
    """Rates all paths both ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=16, help='images that calibrate, and as many that rate')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    distiller, batches = prepare_batches(args.images)
    cell = distiller.all_blocks()[-1].all_cells()[0]
    # first calls allocate
    rate(cell, cell.paths[0], lambda: batches, lambda: batches)
    tree_time = plain_time = 0.0
    tree: list[float] = []
    plain: list[float] = []
    # by turns, so that other work on the machine slows both sides
    for unit in units(cell):
        start = time.perf_counter()
        tree += rate(cell, unit.prefix, lambda: batches, lambda: batches)
        middle = time.perf_counter()
        plain += [rate_path(cell, path, lambda: batches, lambda: batches) for path in unit.paths]
        tree_time += middle - start
        plain_time += time.perf_counter() - middle
    off = max(abs(a - b) for a, b in zip(tree, plain, strict=True))
    evaluations = sum(unit.evaluations for unit in units(cell))
    images = f'{args.images} + {args.images} images'
    print(f'{platform.machine()}, {args.threads} threads, {images}, PyTorch {torch.__version__}\n')
    print('| rating of 1296 paths | layer evaluations | time | ratio | largest difference of a rating |')
    print('| --- | ---: | ---: | ---: | ---: |')
    print(f'| each path by itself | {4 * len(plain)} | {plain_time:.1f} s | 1.00 | |')
    print(f'| tree | {evaluations} | {tree_time:.1f} s | {tree_time / plain_time:.2f} (at most 0.40) | {off:.0e} |')


if __name__ == '__main__':
    main()
