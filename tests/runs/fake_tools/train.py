"""Stands for ``tools/train.py``: notes how it was called, and leaves the files of a run, in milliseconds.

What it "measures" is ten times the length of the row's name plus the random seed. ``FAKE_FAIL`` names a row that ends
with an error, ``FAKE_SLEEP`` one that sleeps.
"""

import argparse
import ast
import json
import os
import sys
import time
from pathlib import Path

FOUND = "[[8, 4], ['k3_e1'], 1]|[[4, 8], ['k3_e3'], 2]|[[8, 8], ['k3_e3'], 1]"


def as_json(text):
    """FNA's text as JSON."""
    text, _, head = text.partition('|head=')
    stages = [ast.literal_eval(stage) for stage in text.split('|')]
    names = ('in_channels', 'channels', 'layers', 'stride')
    found = {'stages': [dict(zip(names, (*s[0], *s[1:]), strict=True)) for s in stages]}
    return json.dumps({**found, 'head_channels': int(head) if head else None})


parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--arch')
parser.add_argument('--resume', action='store_true')
parser.add_argument('--search-only', action='store_true')
parser.add_argument('--cfg-options', nargs='+')
args = parser.parse_args()
row, seed = args.work_dir.name, args.work_dir.parent.name
with open(os.environ['FAKE_CALLS'], 'a') as calls:
    given = [text for text in sys.argv[2:] if text not in ('--work-dir', str(args.work_dir))]
    calls.write(json.dumps([seed, row, os.environ['OMP_NUM_THREADS'], *given]) + '\n')
if os.environ.get('FAKE_SLEEP') == row:
    time.sleep(60)
if os.environ.get('FAKE_FAIL') == row:
    sys.exit('some words before\nerror: --resume: the search was begun with other settings (model.x 1 -> 2)')
text = args.arch or FOUND
arch = Path(text).read_text() if text.endswith('.json') else as_json(text)
done = {'id': 'a', 'settings': {}, 'done': True, 'notes': {}}
parts = {} if args.arch else {'search': done}
given = {'origin': 'given'} | ({} if text.endswith('.json') else {'arch': text})
parts |= {'derive': done if args.arch is None else {**done, 'notes': given}}
parts |= {} if args.search_only else {'adapt': done}
manifest = {
    'version': 1,
    'id': 'a',
    'method': 'gradient',
    'report': {'input_size': [16, 16], 'output_stride': 32},
    'versions': {},
    'state': 'done' if 'adapt' in parts else 'derived',
    'parts': parts,
}
(args.work_dir / 'derived').mkdir(parents=True, exist_ok=True)
(args.work_dir / 'derived' / 'arch.json').write_text(arch)
if 'adapt' in parts:
    logs = args.work_dir / 'adapt' / 'now' / 'vis_data'
    logs.mkdir(parents=True, exist_ok=True)
    record = {'mIoU': 10.0 * len(row) + int(seed.removeprefix('seed')), 'step': 1}
    (logs / 'scalars.json').write_text(json.dumps(record) + '\n')
(args.work_dir / 'run.json').write_text(json.dumps(manifest))
