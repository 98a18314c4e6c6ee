"""What remapping is worth: seeds, policies and random weights, in the search and in the adaptation of one network.

    python benchmarks/remapping.py photos5 --work-dir work_dirs/few --imagenet FILE --coco FILE

Takes the network that the row ``argmax`` of ``benchmarks/few_images.py`` finds on the same data, or another by
``--network``, which has larger kernels and narrower expansions than the seed, and adapts it from each start under one
recipe; and searches from each seed. Prints the training loss of the first random seed after about 50, 200 and 1000
iterations (the first record from there on, a mean of the 50 iterations up to it) beside the metric at the end.
Both seeds are MobileNetV2 with a batch-norm epsilon of 1e-3 and pixels in -1…1.
"""

import argparse
import os
from pathlib import Path

from few_images import BY_LOSSES, CONFIGS, MACS, random_search_options, seed_options, shared

from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.repeated import trained_in
from mmnas_ext.runs.results import logged_scalars
from mmnas_ext.runs.rows import Comparison, Row

ROOT = Path(__file__).resolve().parents[1]
INIT = 'derived.model.backbone.init_cfg'
STEPS = (50, 200, 1000)
# of what differs from FNA's choice: channels in their order, kernels centred, no noise
POLICIES = {
    'width_bn': 'width=bn',
    'width_l1': 'width=l1',
    'width_std': 'width=std',
    'kernel_dilated': 'kernel=dilated',
    'noise': 'noise=1e-5',
}


def rows(data: str, arch: str, network: str | None, imagenet: Path, coco: Path) -> tuple[Row, ...]:
    """Lists the rows.

    Args:
        data: ``'steel'`` or ``'photos5'``.
        arch: The seed's architecture, a file.
        network: The network that is adapted, ``{seed}`` in it the random seed; ``None`` for the one that row ``argmax``
            of `few_images` finds.
        imagenet: Its ImageNet weights.
        coco: Its weights of a detector on COCO.
    """
    searched = () if network else tuple(row for row in shared(data) if row.name in ('search', 'argmax'))
    fixed = dict(arch=network or 'found:argmax')
    # the seed of both halves, of which a row that is given its network runs the second
    other, random = (f'seed.checkpoint={coco.resolve()}',), (f'{INIT}=None',)
    limit = f'optim_wrapper.cost.target={MACS[data]}'  # the seed's, which the search does not know
    without = random_search_options(arch, str(imagenet.resolve()))
    plain = (*without, 'optim_wrapper.keep_seed=None', limit, *BY_LOSSES)
    return (
        *searched,
        Row('remap_imagenet', 'adapted from ImageNet weights', **fixed),
        Row('remap_coco', 'adapted from COCO weights', options=other, **fixed),
        Row('remap_random', 'adapted from random weights', options=random, **fixed),
        *(
            Row(f'remap_{name}', f'adapted from ImageNet weights, {text}', options=(f'{INIT}.{text}',), **fixed)
            for name, text in POLICIES.items()
        ),
        Row('both_coco', 'searched and adapted from COCO weights', options=(*other, *BY_LOSSES)),
        Row('found_coco', 'searched from COCO weights, adapted from ImageNet weights', arch='found:both_coco'),
        Row('found_random', 'searched from random weights, adapted from ImageNet weights', options=plain),
    )


def losses(folder: Path) -> dict[int, float]:
    """The training loss at the first record from each of some iterations on, by its iteration."""
    records = [record for record in logged_scalars(folder) if 'loss' in record and 'step' in record]
    found = (next((record for record in records if record['step'] >= step), None) for step in STEPS)
    return {record['step']: record['loss'] for record in found if record is not None}


def loss_table(folders: dict[str, Path]) -> str:
    """The losses of trainings by title as a Markdown table, a dash where one has not been that long."""
    found = {title: losses(folder) for title, folder in folders.items()}
    steps = sorted({step for row in found.values() for step in row})
    lines = [f'| start | {" | ".join(f"loss after {step}" for step in steps)} |', f'|---|{"---|" * len(steps)}']
    for title, row in found.items():
        cells = (f'{row[step]:.3f}' if step in row else '–' for step in steps)
        lines.append(f'| {title} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the rows that are not there yet, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', choices=sorted(CONFIGS))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/few'))
    parser.add_argument('--imagenet', type=Path, required=True, help='MobileNetV2 with ImageNet weights')
    parser.add_argument('--coco', type=Path, required=True, help='MobileNetV2 with weights of a detector on COCO')
    parser.add_argument('--network', help='what is adapted: a file or the text of a network (default: of row argmax)')
    add_comparing(parser, seeds=(0,))
    args = parser.parse_args()
    if args.rows is None or 'remap_imagenet' in args.rows:
        args.baseline = args.baseline or 'remap_imagenet'
    work_dir = args.work_dir.resolve()
    with errors():
        arch, _, options = seed_options(work_dir, args.imagenet)
        if not args.coco.is_file():
            raise FileNotFoundError(f'--coco {args.coco} does not exist')
        folder = work_dir / args.data
        network = os.path.abspath(args.network) if args.network and os.path.isfile(args.network) else args.network
        made = rows(args.data, arch, network, args.imagenet, args.coco)
        os.chdir(ROOT)  # where the configs' data lie
        options += args.cfg_options
        comparison = Comparison(CONFIGS[args.data], folder, made, args.seeds, options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        compare(comparison, args, ROOT / 'tools', 'remapping.json')
        trained = [row for row in comparison.only(args.rows).rows if row.train]
        print('\n' + loss_table({row.title: trained_in(comparison, row, args.seeds[0]) for row in trained}))


if __name__ == '__main__':
    main()
