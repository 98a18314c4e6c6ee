"""A bar over what takes time: progress and remaining time on a terminal, nothing under a pipe."""

import io
import re
import sys

import pytest
from mmengine import dist

from mmnas_ext.engine import progress
from mmnas_ext.engine.progress import CountingBar
from tests.engine.terminal import Terminal


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Standard error is a terminal; capsys replaces it as well, and is asked first."""
    shown = Terminal()
    monkeypatch.setattr(sys, 'stderr', shown)
    return shown


@pytest.mark.parametrize(('done', 'sizes'), [(0, [1] * 7), (3, [2, 2]), (0, [20, 20, 20])])
def test_it_shows_progress_and_remaining_time_and_ends(terminal, capsys, done, sizes):
    bar = CountingBar('losses', 7, done)
    assert re.search(rf'\r *\d+%\|.*{done}/7 \[00:00<\?', terminal.getvalue())
    for size in sizes:
        bar.step(size)
    assert re.search(r'100%\|.*7/7 \[\d\d:\d\d<\d\d:\d\d.*\n$', terminal.getvalue())
    assert capsys.readouterr().out == 'losses\n'
    ended = terminal.getvalue()
    bar.step()  # more than was announced
    assert terminal.getvalue() == ended


def test_it_is_updated_no_more_often_than_it_is_told(terminal):
    bar = CountingBar('', 120, updates=10)
    for _ in range(120):
        bar.step()
    # the first and the last beside
    assert terminal.getvalue().count('/120') <= 12


def test_one_that_is_closed_early_ends_its_line(terminal):
    bar = CountingBar('', 3)
    bar.step()
    bar.close()
    bar.close()
    assert re.search(r'1/3 .*\n$', terminal.getvalue())


def test_a_pipe_gets_the_title_alone(capsys, monkeypatch):
    piped = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', piped)
    bar = CountingBar('losses', 2)
    bar.step(2)
    bar.close()
    assert (piped.getvalue(), capsys.readouterr().out) == ('', 'losses\n')


@pytest.mark.parametrize(('total', 'done'), [(0, 0), (3, 3)])
def test_nothing_to_do_shows_nothing(terminal, capsys, total, done):
    CountingBar('losses', total, done).step(0)
    CountingBar('losses', total, done).close()
    assert (terminal.getvalue(), capsys.readouterr().out) == ('', '')


def test_other_processes_show_nothing(terminal, capsys, monkeypatch):
    assert progress.is_main_process is dist.is_main_process
    monkeypatch.setattr(progress, 'is_main_process', lambda: False)
    CountingBar('losses', 3).step(3)
    assert (terminal.getvalue(), capsys.readouterr().out) == ('', '')
