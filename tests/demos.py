"""Runs the demos' command in this process: importing MMDetection and MMSegmentation anew takes longer than a demo."""

import importlib.util
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]
# as little as there is of each step of a selection by measured losses: its own tests compare it with answers by hand
FEW_MEASUREMENTS = tuple(
    f'optim_wrapper.selection.{name}'
    for name in (
        'first=1', 'networks=3', 'rounds=1', 'batches=1', 'finalists=2', 'most=2',
        'front.networks=3', 'front.candidates=1', 'front.calibration=1',
    )
)  # fmt: skip


def run_demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Calls `tools/demo.py` with these arguments, from the project's folder, as ``python tools/demo.py`` does."""
    spec = importlib.util.spec_from_file_location('tools_demo', ROOT / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    # dataclasses of a module look it up by its name
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['tools/demo.py', *arguments])
    # a runner's host stays MMEngine's default scope: the next test must not build in it
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    module.main()
