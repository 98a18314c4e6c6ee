"""A bar over what takes time: progress and remaining time on a terminal, nothing under a pipe."""

import contextlib
import functools
import re

import pytest
from mmengine import dist

from mmnas_ext.engine import progress
from mmnas_ext.engine.progress import CountingBar
from tests.engine.terminal import Terminal


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What stands for standard error inside a test; a fixture alone cannot set it, since pytest captures it anew."""
    terminal = Terminal()
    monkeypatch.setattr(progress, 'tqdm', functools.partial(progress.tqdm, file=terminal))
    return terminal


@pytest.mark.parametrize(('done', 'sizes'), [(0, [1] * 7), (3, [2, 2]), (0, [20, 20, 20])])
def test_it_shows_progress_and_remaining_time_and_ends(shown, capsys, done, sizes):
    bar = CountingBar('losses', 7, done)
    assert re.search(rf'\r *\d+%\|.*{done}/7 \[00:00<\?', shown.getvalue())
    for size in sizes:
        bar.step(size)
    assert re.search(r'100%\|.*7/7 \[\d\d:\d\d<\d\d:\d\d.*\n$', shown.getvalue())
    assert capsys.readouterr().out == 'losses\n'
    ended = shown.getvalue()
    bar.step()  # more than was announced
    assert shown.getvalue() == ended


def test_it_is_updated_no_more_often_than_it_is_told(shown):
    bar = CountingBar('', 120, updates=10)
    for _ in range(120):
        bar.step()
    # the first and the last beside
    assert shown.getvalue().count('/120') <= 12


def test_one_that_is_closed_early_ends_its_line(shown):
    bar = CountingBar('', 3)
    bar.step()
    bar.close()
    bar.close()
    assert re.search(r'1/3 .*\n$', shown.getvalue())


def test_a_pipe_gets_the_title_alone(shown, capsys, monkeypatch):
    monkeypatch.setattr(shown, 'isatty', lambda: False)
    bar = CountingBar('losses', 2)
    bar.step(2)
    bar.close()
    assert (shown.getvalue(), capsys.readouterr().out) == ('', 'losses\n')


def test_it_goes_to_standard_error(monkeypatch):
    monkeypatch.undo()
    with contextlib.redirect_stderr(Terminal()) as shown:
        CountingBar('', 2).step(2)
    assert '2/2' in shown.getvalue()


@pytest.mark.parametrize(('total', 'done'), [(0, 0), (3, 3)])
def test_nothing_to_do_shows_nothing(shown, capsys, total, done):
    CountingBar('losses', total, done).step(0)
    CountingBar('losses', total, done).close()
    assert (shown.getvalue(), capsys.readouterr().out) == ('', '')


def test_other_processes_show_nothing(shown, capsys, monkeypatch):
    assert progress.is_main_process is dist.is_main_process
    monkeypatch.setattr(progress, 'is_main_process', lambda: False)
    CountingBar('losses', 3).step(3)
    assert (shown.getvalue(), capsys.readouterr().out) == ('', '')
