"""A whole search on small generated images: search, derive, train, and the seed beside what was found.

Example: ``python tools/demo.py`` (``make demo``), files in ``work_dirs/demo``; ``python tools/demo.py --task seg``
(``make demo-seg``), files in ``work_dirs/demo_seg``; ``--task dna`` (``make demo-dna``), in ``work_dirs/demo_dna``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmnas_ext.install_check import explained

with explained():
    from mmengine.config import DictAction

    from mmnas_ext.archs import ArchSpec
    from mmnas_ext.cli import errors
    from mmnas_ext.datasets import make_detection, make_segmentation
    from mmnas_ext.reports import comparison_table, draw_predictions, write_report
    from mmnas_ext.runs.checks import check_config
    from mmnas_ext.runs.predict import predict, write_labels, write_samples
    from mmnas_ext.runs.results import result_row, write_results
    from mmnas_ext.runs.run import prepare, run
    from mmnas_ext.workdir import WorkDir

SEED = 'efficientnet_lite0'


@dataclass(frozen=True)
class Task:
    """What differs from one task to the other.

    Args:
        config: The search.
        make: Makes the images in a folder, and says whether it had to.
        data: That folder, as the config has it.
        metrics: Columns of the table, as MMEngine names them.
        work_dir: Where everything goes unless the command line says otherwise.
        draws_labels: Whether what the networks predict is drawn.
        seed_config: The search whose second half trains the seed.
        found: Title of what is found.
    """

    config: str
    make: Callable[[str], bool]
    data: str
    metrics: tuple[str, ...]
    work_dir: str
    draws_labels: bool
    seed_config: str
    found: str = 'found by FNA'


TASKS = {
    'det': Task(
        'configs/demo_fna_retinanet.py',
        make_detection,
        'data/shapes_det',
        ('coco/bbox_mAP', 'coco/bbox_mAP_50'),
        'work_dirs/demo',
        draws_labels=False,
        seed_config='configs/demo_fna_retinanet.py',
    ),
    'seg': Task(
        'configs/demo_fna_deeplabv3.py',
        make_segmentation,
        'data/shapes_seg',
        ('mIoU', 'aAcc'),
        'work_dirs/demo_seg',
        draws_labels=True,
        seed_config='configs/demo_fna_deeplabv3.py',
    ),
    'dna': Task(
        'configs/demo_dna.py',
        make_segmentation,
        'data/shapes_seg',
        ('mIoU', 'aAcc'),
        'work_dirs/demo_dna',
        draws_labels=True,
        seed_config='configs/demo_fna_deeplabv3.py',
        found='found by DNA',
    ),
}


def main() -> None:
    """Runs the demo; what an interrupted one has finished is not done again with ``--resume``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--task', choices=sorted(TASKS), default='det', help='det (default) and seg: FNA; dna: DNA')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/demo, demo_seg or demo_dna)')
    parser.add_argument('--resume', action='store_true', help='go on where the last demo stopped')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config entries, key=value')
    args = parser.parse_args()
    begun = time.monotonic()
    task = TASKS[args.task]
    work_dir = Path(args.work_dir or task.work_dir)
    options = {'log_level': 'WARNING', **(args.cfg_options or {})}  # the whole of MMEngine's log would bury the table
    print(f'1. images: {"made" if task.make(task.data) else "there already"}, in {task.data}', flush=True)
    with errors():
        cfg = prepare(task.config, str(work_dir), options=options)
        prepared = check_config(cfg)
    print('2. search, derive, train', flush=True)
    run(cfg, args.resume, prepared=prepared)
    print('3. the seed, with the same recipe', flush=True)
    seed = prepare(task.seed_config, str(work_dir / 'seed'), options=options)
    run(seed, args.resume and WorkDir(work_dir / 'seed').manifest.is_file(), arch=SEED)
    size, stride = tuple(seed.model.backbone.input_size), seed.model.backbone.get('output_stride', 32)
    runs = {'seed (EfficientNet-Lite0)': work_dir / 'seed', task.found: work_dir}
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
    print(f'all of it:         {page}\n{(time.monotonic() - begun) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
