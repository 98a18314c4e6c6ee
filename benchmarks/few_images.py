"""FNA inside RetinaNet on hundreds of photographs: seed, both choices, random search, and what remapping is worth.

    python benchmarks/few_images.py steel --work-dir work_dirs/few --seed-weights mobilenet_v2_imagenet.pth

Rows are runs of ``tools/train.py`` under one adaptation recipe, that of ``configs/fna_retinanet_mbv2_steel.py`` or
``…_photos5.py``, over several random seeds. ``argmax`` chooses from a search that trains alpha (row ``search``),
``measured`` and ``measured60`` from one near the seed that takes as long (row ``near``). The rows up to these are there
on both data sets, the others on steel. Prints Markdown tables; minutes are processor time of a run and its
loader, whatever else the machine does. Every run goes on where it stopped when the script is started again.

``--seed-weights`` names ImageNet weights of MobileNetV2 that were trained with pixels in -1…1 and a batch-norm epsilon
of 1e-3; without it the config's seed is taken.
"""

import argparse
import os
from pathlib import Path

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.workdir import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {data: f'configs/fna_retinanet_mbv2_{data}.py' for data in ('steel', 'photos5')}
RANDOM = 'configs/random_retinanet_mbv2_steel.py'
SEED_ARCH = 'mobilenet_v2'
# a search as published: alpha is trained from the third of five epochs on, and no path keeps the seed's candidates
BY_ALPHA = (
    'train_cfg.max_epochs=5',
    'train_cfg.arch_start=2',
    'param_scheduler.1.end=5',
    'param_scheduler.1.T_max=5',
    'optim_wrapper.keep_seed=None',
    'optim_wrapper.selection=None',
)
BY_LOSSES = ('optim_wrapper.selection.front=None',)
BRIEFLY = ('optim_wrapper.selection.adapt.networks=6',)
SHARE = 0.6
EPOCHS = 8  # of an adaptation
MACS = {'steel': 279423872, 'photos5': 570252800}  # of the seed's backbone, at the size of the images


def shared(data: str) -> tuple[Row, ...]:
    """Lists the rows that both data sets have."""
    less = (*BY_LOSSES, f'optim_wrapper.cost.target={int(SHARE * MACS[data])}')
    return (
        Row('search', options=BY_ALPHA, train=False),
        Row('near', options=BY_LOSSES, train=False),
        Row('seed', 'seed (MobileNetV2)', arch='seed'),
        Row('argmax', 'found by argmax of alpha', search_of='search', selection='argmax', options=BY_ALPHA),
        Row('measured', 'found by measured losses', search_of='near', options=BY_LOSSES),
        Row('adapted', 'found by losses and brief adaptations', search_of='near', options=(*BY_LOSSES, *BRIEFLY)),
        Row('measured60', 'found by measured losses, 60 % of the cost', search_of='near', options=less),
        Row(
            'adapted60',
            'found by losses and brief adaptations, 60 % of the cost',
            search_of='near',
            options=(*less, *BRIEFLY),
        ),
    )


IMITATE = ('derived.imitate.weight=1.0', 'derived.imitate.until=0.5')
RANDOM_ADAPT = ('derived.model.backbone.init_cfg=None',)
SCALE = 127.5  # pixels in -1…1


def random_search_options(arch: str, checkpoint: str) -> tuple[str, ...]:
    """Overrides that leave the super-network at random weights: the adaptation's seed is then to be said.

    And its batch-norm epsilon: what such a search finds has that of the super-network, which is PyTorch's.
    """
    init, eps = 'derived.model.backbone.init_cfg', ArchSpec.parse(arch).bn_eps
    norms = () if eps is None else (f'derived.model.backbone.norm_cfg.eps={eps}',)
    return (
        *norms,
        'model.backbone.init_cfg=None',
        f'{init}.type=mmnas_ext.Remapped',
        f'{init}.seed.arch={arch}',
        f'{init}.seed.checkpoint={checkpoint}',
    )


def imitate_trained(folder: Path, arch: str) -> tuple[str, ...]:
    """Overrides by which a network imitates what row ``seed`` of the same random seed has trained, to the end."""
    teacher = folder / 'seed{seed}' / 'seed' / 'adapt' / f'epoch_{EPOCHS}.pth'
    return (
        'derived.imitate.weight=1.0',
        'derived.imitate.until=1.0',
        f'derived.imitate.seed.arch={arch}',
        f'derived.imitate.seed.checkpoint={teacher}',
    )


def rows(data: str, arch: str, checkpoint: str, folder: Path = Path()) -> tuple[Row, ...]:
    """Lists the rows of a data set.

    Args:
        data: ``'steel'`` or ``'photos5'``.
        arch: The seed's architecture: a zoo name or a file.
        checkpoint: Its weights.
        folder: Of all runs.
    """
    teach = {'options': imitate_trained(folder, arch), 'after': ('seed',)}
    both = (
        *shared(data),
        Row(
            'taught60',
            'found at 60 %, adapted while it imitates the trained seed',
            arch='found:measured60',
            **teach,
        ),
        Row('taught', 'the seed, adapted while it imitates the trained seed', arch='seed', **teach),
    )
    if data != 'steel':
        return both
    plain = random_search_options(arch, checkpoint)
    free = ('optim_wrapper.keep_seed=None', *BY_LOSSES, f'optim_wrapper.cost.target={int(SHARE * MACS[data])}')
    return (
        *both,
        Row(
            'imitated60',
            'found at 60 %, adapted while it imitates the seed',
            arch='found:measured60',
            options=IMITATE,
        ),
        Row('random', 'best of random search', config=RANDOM),
        Row('search_not_remapped', options=(*plain, *free), train=False),
        Row(
            'not_remapped',
            'found without remapping the super-network, 60 % of the cost',
            search_of='search_not_remapped',
            options=(*plain, *free),
        ),
        Row(
            'random_weights',
            'found at 60 %, adapted from random weights',
            arch='found:measured60',
            options=RANDOM_ADAPT,
        ),
    )


def seed_options(work_dir: Path, weights: Path | None) -> tuple[str, str, list[str]]:
    """The seed's architecture and weights, and the overrides that say so; without weights, the config's own.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if weights is None:
        return SEED_ARCH, 'torchvision://mobilenet_v2', []
    if not weights.is_file():
        raise FileNotFoundError(f'--seed-weights {weights} does not exist')
    arch, checkpoint = str(work_dir / f'{SEED_ARCH}.json'), str(weights.resolve())
    write_text(Path(arch), zoo.arch(SEED_ARCH).replace(bn_eps=1e-3).format('json'))
    given = [f'model.data_preprocessor.{name}={[SCALE] * 3}'.replace(' ', '') for name in ('mean', 'std')]
    return arch, checkpoint, [*given, f'seed.arch={arch}', f'seed.checkpoint={checkpoint}']


def main() -> None:
    """Runs the rows that are not there yet, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', choices=sorted(CONFIGS))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/few'), help='runs go into <work dir>/<data>')
    parser.add_argument('--seed-weights', type=Path, help="the seed's weights (default: the config's)")
    add_comparing(parser)
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    with errors():
        arch, checkpoint, options = seed_options(work_dir, args.seed_weights)
        options += args.cfg_options
        os.chdir(ROOT)  # where the configs' data lie
        folder = work_dir / args.data
        made = rows(args.data, arch, checkpoint, folder)
        comparison = Comparison(CONFIGS[args.data], folder, made, args.seeds, options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        compare(comparison, args, ROOT / 'tools')


if __name__ == '__main__':
    main()
