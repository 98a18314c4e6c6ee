"""Stands for ``tools/select_network.py``: notes how it was called, and writes a network that names its selection."""

import argparse
import json
import os
import sys
from pathlib import Path

KERNEL = {'argmax': 3, 'measured': 5}

parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--out', type=Path)
parser.add_argument('--selection', default='measured')
parser.add_argument('--cfg-options', nargs='+')
args = parser.parse_args()
with open(os.environ['FAKE_CALLS'], 'a') as calls:
    given = ['select', args.selection, args.work_dir.name, *args.cfg_options]
    calls.write(json.dumps([args.work_dir.parent.name, args.out.parent.name, *given]) + '\n')
if not json.loads((args.work_dir / 'run.json').read_text())['parts']['search']['done']:
    sys.exit('error: no finished search')
arch = json.loads((args.work_dir / 'derived' / 'arch.json').read_text())
arch['stages'][1]['layers'] = [f'k{KERNEL[args.selection]}_e3']
args.out.mkdir(parents=True, exist_ok=True)
(args.out / 'arch.json').write_text(json.dumps(arch))
