"""Measures what grows: annotations of COCO's size, long logs, large spaces, thousands of trials, a thousand ranks.

    python benchmarks/scale.py                    # about 40 minutes on one core; --list names the rows
    python benchmarks/scale.py --only trials      # the rows whose table or name has this in it
    python benchmarks/scale.py --quick            # tiny sizes: figures without meaning

Each row is measured in a fresh process, one after the other, on one thread; its inputs are generated, up to 5 GB on the
disk, and removed. Rows are appended to ``<out>/rows.jsonl`` as they come, and the same command goes on where it was
stopped; prints Markdown. Exit status 1: a row failed, or was promised to be flat and is not.

*Wall* and *CPU* are of the part; *at most* is the most resident memory that it added at any time, *kept* what is still
there when it has ended, *process* the most that the process held, libraries included; *open* are descriptors before and
after.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROWS_FILE = 'rows.jsonl'
SLACK = 8  # MB by which two equal rows may differ
HEAD = ('', 'wall', 'CPU', 'at most', 'kept', 'process', 'open', '')


class Row(NamedTuple):
    """What a row measures: its table, its name, the function, its arguments, and the files that it reads.

    `files` names what makes them, and its arguments; rows of one table and equal `files` share them. A row with `half`
    must take no more memory than the row of that name in its table, which has half as much to do.
    """

    table: str
    name: str
    measure: str
    arguments: dict[str, Any]
    files: tuple[str, dict[str, Any]] | None = None
    writes: bool = False
    half: str = ''

    @property
    def key(self) -> str:
        """Its place in the file."""
        return f'{self.table}: {self.name}'


def list_rows(quick: bool) -> list[Row]:
    """All rows, in the order in which they are measured."""
    coco = ('make_coco', dict(share=1e-3 if quick else 1))
    lines = 1_000 if quick else 1_000_000
    many, seeds, real = (120, 20, 4) if quick else (10_000, 1_000, 50)
    table = 'annotations of COCO train2017'
    rows = [
        Row(table, "MMDetection's", 'their_loader', {}, coco),
        Row(table, 'both halves', 'both_halves', {}, coco),
        Row(table, 'the halves in parts', 'halves_in_parts', {}, coco),
        Row(table, 'checks of own data', 'checks', {}, coco),
    ]
    run, other = 'a run, two logs of {:,} lines', 'a distillation, {:,} lines'
    for count in (lines // 10, lines, 2 * lines):
        made = ('make_run', dict(lines=count, records=count // 100))
        half = run.format(lines) if count > lines else ''
        rows.append(Row('logs', run.format(count), 'page', {}, made, half=half))
    for count in (lines, 2 * lines):
        half = other.format(lines) if count > lines else ''
        rows.append(Row('logs', other.format(count), 'distilled', dict(lines=count), writes=True, half=half))
    rows += [
        Row('logs', f"MMEngine's buffers after {count:,} iterations", 'buffers', dict(iterations=count))
        for count in (lines // 10, lines)
    ]
    made = ('make_run', dict(lines=lines // 10, records=lines))
    rows.append(Row('logs', f'a run, {lines:,} records of alpha', 'page', {}, made))
    rows += [
        Row('choices', "DNA's space, six limits", 'choose', dict(stages=4 if quick else 7, repeats=5)),
        Row('choices', "FNA's space, six limits", 'choose_by_alpha', dict(repeats=5)),
        Row('trials', f'{many:,} trials', 'trials', dict(count=many, real=False), writes=True),
        Row('trials', f'{real} trainings', 'trials', dict(count=real, real=True), writes=True),
        Row('trials', f'{many:,} draws', 'draws_within', dict(count=many)),
        Row('trials', 'generations of an evolution', 'generations', dict(number=2 if quick else 200), writes=True),
        Row('ranks', f'{seeds:,} ranks: paths', 'ranks', dict(count=seeds, iterations=seeds)),
        Row('ranks', f'{seeds:,} ranks: images', 'shares', dict(count=seeds, images=20 * seeds)),
    ]
    config = 'fna_retinanet_coco.py'
    rows += [
        Row('a search in RetinaNet', 'parameters and checkpoint', 'detector', dict(config=config), writes=True),
        Row('a search in RetinaNet', 'input', 'images', dict(config=config, count=4 if quick else 200), writes=True),
    ]
    return rows


def work(row: Row, folder: Path) -> None:
    """Measures a row in this process, and prints its readings."""
    sys.path.insert(0, str(ROOT))  # a script has its own folder there
    from benchmarks import scale_data, scale_search

    meter = scale_data.Meter()
    function = getattr(scale_data, row.measure, None) or getattr(scale_search, row.measure)
    function(meter, *((folder,) if row.files or row.writes else ()), **row.arguments)
    print('\n' + json.dumps({'parts': meter.readings}))


def make(row: Row, folder: Path) -> None:
    """Makes the files that a row reads."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import scale_data

    assert row.files is not None, 'asked for files'
    name, arguments = row.files
    getattr(scale_data, name)(folder, **arguments)


def measure(row: Row, folder: Path, quick: bool) -> dict[str, Any]:
    """Measures a row in a fresh process; its files are there already, if it reads any."""
    record: dict[str, Any] = {'key': row.key, 'quick': quick, 'date': f'{datetime.now():%Y-%m-%d}'}
    done = _call(row, folder, quick)
    line = done.stdout.rstrip().rpartition('\n')[2]
    if done.returncode or not line.startswith('{"parts"'):
        said = (done.stderr.strip() or 'no word').splitlines()[-1]
        return {**record, 'error': f'the process ended with {done.returncode}: {said}'[:300]}
    return {**record, **json.loads(line)}


def _call(row: Row, folder: Path, quick: bool, making: bool = False) -> 'subprocess.CompletedProcess[str]':
    words = [
        '--worker',
        row.key,
        '--out',
        str(folder),
        *(['--quick'] if quick else []),
        *(['--make'] if making else []),
    ]
    environ = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
    # paths of a package that is not installed
    environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.run(
        [sys.executable, __file__, *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


def run_rows(rows: list[Row], file: Path, quick: bool) -> None:
    """Measures rows and appends them to a file; those with the same input share it."""
    made: tuple[Any, Path] | None = None
    for number, row in enumerate(rows):
        folder = file.parent / 'input' / str(number)
        wanted = row.files and (row.table, row.files)
        if made and made[0] == wanted:
            folder = made[1]
        else:
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            made = (wanted, folder) if wanted else None
            done = _call(row, folder, quick, making=True) if wanted else None
            if done is not None and done.returncode:
                raise SystemExit(f'the input of {row.key} cannot be made: {done.stderr[-300:]}')
        record = measure(row, folder, quick)
        with file.open('a') as lines:
            lines.write(json.dumps(record) + '\n')
        print(f'{row.key}: {record.get("error") or "done"}', file=sys.stderr, flush=True)
    shutil.rmtree(file.parent / 'input', ignore_errors=True)


def read_rows(file: Path, quick: bool) -> dict[str, dict[str, Any]]:
    """Rows that are there already and did not fail, by key."""
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {each['key']: each for each in records if each['quick'] == quick and 'error' not in each}


def tables(rows: list[Row], found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Markdown of the rows that there are."""
    for title in dict.fromkeys(row.table for row in rows):
        lines = [HEAD, ('---', *('---:',) * 6, '---')]
        for row in rows:
            if row.table == title and row.key in found:
                lines += [_cells(row.name, part) for part in found[row.key]['parts']]
        if len(lines) > 2:
            yield f'### {title[0].upper()}{title[1:]}\n\n' + '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def grown(rows: list[Row], found: dict[str, dict[str, Any]]) -> list[str]:
    """Rows that take more memory than those with half as much to do."""
    names = []
    for row in rows:
        pair = [found.get(key) for key in (row.key, f'{row.table}: {row.half}')]
        most = [max(part['peak'] or part['whole'] for part in each['parts']) for each in pair if each]
        if len(most) == 2 and most[0] > most[1] + SLACK:
            names.append(f'{row.key} takes {most[0]:.0f} MB, and half of it {most[1]:.0f} MB')
    return names


def _cells(name: str, part: dict[str, Any]) -> tuple[str, ...]:
    most = '' if part['peak'] is None else f'{part["peak"]:.1f} MB'
    first, last = part['files']
    return (
        f'{name}: {part["name"]}', f'{part["wall"]:.2f} s', f'{part["cpu"]:.2f} s', most, f'{part["kept"]:.1f} MB',
        f'{part["whole"]:.0f} MB', str(first) if first == last else f'{first} to {last}', part.get('note', ''),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measures the rows that are not there yet, then prints all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'scale')
    parser.add_argument('--only', default='', help='rows whose table or name has this in it')
    parser.add_argument('--quick', action='store_true', help='tiny sizes: figures without meaning')
    parser.add_argument('--list', action='store_true', help='name the rows')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--make', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    rows = [row for row in list_rows(args.quick) if args.only in row.key]
    if args.worker:
        row = next(row for row in rows if row.key == args.worker)
        (make if args.make else work)(row, args.out)
        return
    if not rows:
        parser.error(f'--only must be a part of the name of a row, got {args.only!r}: --list names them')
    if args.list:
        print('\n'.join(row.key for row in rows))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ROWS_FILE
    done = read_rows(file, args.quick)
    run_rows([row for row in rows if row.key not in done], file, args.quick)
    found = read_rows(file, args.quick)
    said = '; tiny sizes, no figure has a meaning' if args.quick else ''
    dates = ' and '.join(sorted({each.get('date', 'an unknown day') for each in found.values()}))
    print(f'`benchmarks/scale.py`, rows of {dates}, {platform.machine()}, one thread{said}\n')
    print('\n\n'.join(tables(rows, found)))
    failed = [row.key for row in rows if row.key not in found]
    more = [] if args.quick else grown(rows, found)
    if failed or more:
        raise SystemExit(f'failed: {"; ".join(failed)}' if failed else '; '.join(more))


if __name__ == '__main__':
    main()
