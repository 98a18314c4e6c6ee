"""A machine without network and compiled operators: what stands in for them, and how it is set up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from mmcv import ops as compiled
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.runs import dry_run
from tests.device import LEFT_OUT, find_device
from tests.engine import tiny
from tools.bare import mmcv_ext

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.3, 0.6])
def test_suppression_keeps_what_the_compiled_one_keeps(offset: int, threshold: float) -> None:
    draw = torch.Generator().manual_seed(offset)
    corners = 20 * torch.rand(200, 2, generator=draw)
    boxes = torch.cat([corners, corners + 1 + 6 * torch.rand(200, 2, generator=draw)], 1)
    scores = torch.rand(200, generator=draw)
    kept = mmcv_ext.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == compiled.nms(boxes, scores, threshold, offset)[1].tolist()
    assert 20 < len(kept) < 190


def test_the_offset_counts_pixels() -> None:
    # 2x2 pixels that share one of seven, or unit squares that touch
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]])
    scores = torch.tensor([0.5, 0.9])
    assert mmcv_ext.nms(boxes, scores, 0.1, 1).tolist() == [1]
    assert mmcv_ext.nms(boxes, scores, 0.1, 0).tolist() == [1, 0]


@pytest.mark.parametrize('weight', [None, [1.0, 0.5, 2.0]])
def test_focal_loss_and_its_gradient(weight: list[float] | None) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(40, 3, generator=draw, dtype=torch.float64)).requires_grad_()
    target = torch.randint(4, (40,), generator=draw)  # 3 is background
    share = torch.empty(0) if weight is None else torch.tensor(weight)
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    wanted = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha=0.3, gamma=1.5)
    wanted = wanted * (1 if weight is None else torch.tensor(weight))
    wanted.sum().backward()
    loss, gradient = torch.zeros(40, 3).double(), torch.zeros(40, 3).double()
    with torch.no_grad():
        mmcv_ext.sigmoid_focal_loss_forward(logits, target, share, loss, gamma=1.5, alpha=0.3)
        mmcv_ext.sigmoid_focal_loss_backward(logits, target, share, gradient, gamma=1.5, alpha=0.3)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(gradient, logits.grad)
    theirs = py_sigmoid_focal_loss(logits, one_hot, gamma=1.5, alpha=0.3, reduction='none')
    if weight is None:
        torch.testing.assert_close(loss, theirs.detach())


def test_other_operators_are_there_and_say_so_when_they_are_called() -> None:
    assert hasattr(mmcv_ext, 'roi_align_forward')  # MMCV looks for it
    with pytest.raises(RuntimeError, match='without compiled operators, and roi_align_forward is one'):
        mmcv_ext.roi_align_forward(torch.zeros(1), output_size=7)
    with pytest.raises(AttributeError):
        mmcv_ext.__path__  # noqa: B018


def test_every_pin_of_a_carried_package_is_that_of_the_environment() -> None:
    names = re.findall(r'^[a-z][\w-]+$', (ROOT / 'requirements-bare.txt').read_text(), re.MULTILINE)
    pinned = dict(re.findall(r'^([a-z][\w-]+)==([^\s]+)$', (ROOT / 'requirements.txt').read_text(), re.MULTILINE))
    assert len(names) == len(set(names)) > 40
    lines = {'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mmpretrain'}
    assert lines <= set(names) & set(pinned)
    assert not {'torch', 'torchvision', 'opencv-python'} & set(names)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['tools/bare_machine.sh'], 'tools/bare_machine.sh FOLDER ENV'),
        (['tools/bare_machine.sh', 'none', 'env'], 'bare_machine: there is no folder none: tools/collect_wheels.sh'),
        (['tools/collect_wheels.sh'], 'tools/collect_wheels.sh FOLDER'),
    ],
)
def test_a_wrong_call_says_what_is_right(words: list[str], message: str) -> None:
    done = subprocess.run(['bash', *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ('deterministic', 'given', 'kept'), [(True, None, ':4096:8'), (False, None, None), (True, ':16:8', ':16:8')]
)
def test_deterministic_algorithms_reach_cublas(tmp_path, monkeypatch, deterministic, given, kept) -> None:
    """PyTorch's note on reproducibility: cuBLAS of CUDA 10.2 and later needs :4096:8 or :16:8."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', given or '')
    if given is None:
        monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    cfg = tiny.search_cfg(tmp_path, **{'randomness.deterministic': deterministic})
    try:
        SafeRunner.from_cfg(cfg)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert os.environ.get('CUBLAS_WORKSPACE_CONFIG') == kept
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_the_clock_of_a_dry_run_waits_for_the_gpu(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.synchronize', lambda: seen.append('waited'))
    monkeypatch.setattr('time.perf_counter', lambda: seen.append('read') or 2.5)
    assert dry_run._now() == 2.5
    assert seen == ['waited', 'read']


@pytest.mark.parametrize(
    ('said', 'card', 'seen', 'found'),
    [(None, False, True, None), (None, True, False, None), (None, True, True, 'cuda'), ('cpu', True, True, 'cpu')],
)
def test_the_device_of_the_tests_is_the_one_asked_for_or_a_gpu(monkeypatch, said, card, seen, found) -> None:
    monkeypatch.delenv('MMNAS_DEVICE', raising=False)
    if said:
        monkeypatch.setenv('MMNAS_DEVICE', said)
    monkeypatch.setattr(Path, 'glob', lambda self, pattern: iter([self / 'nvidia0'] if card else []))
    monkeypatch.setattr('torch.cuda.is_available', lambda: seen)
    assert find_device.__wrapped__() == found


def test_without_a_device_its_tests_are_left_out_with_one_line() -> None:
    env = {**os.environ, 'MMNAS_DEVICE': ''}
    command = [sys.executable, '-m', 'pytest', 'tests/device', '-q', '-p', 'no:cacheprovider']
    if find_device.__wrapped__() != 'cuda':
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout.count(LEFT_OUT)) == (5, 1)
