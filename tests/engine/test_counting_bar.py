"""A bar over what is measured: it reaches its end, and a log file gets few lines of it."""

import pytest

from mmnas_ext.engine.progress import CountingBar


@pytest.mark.parametrize(('total', 'updates', 'sizes'), [(7, 50, [1] * 7), (120, 10, [1] * 120), (53, 5, [20, 20, 13])])
def test_it_ends_and_stays_within_its_updates(capsys, total, updates, sizes):
    bar = CountingBar('losses', total, updates)
    for size in sizes:
        bar.step(size)
    printed = capsys.readouterr().out
    assert printed.startswith('losses\n')
    assert f'{total}/{total}' in printed
    assert printed.endswith('\n')
    assert printed.count('elapsed') <= min(len(sizes), updates + 1) + 1
    bar.step()  # more than was announced
    assert capsys.readouterr().out == ''


def test_nothing_to_do_shows_nothing_and_no_title_no_line(capsys):
    CountingBar('losses', 0).step(0)
    assert capsys.readouterr().out == ''
    CountingBar('', 3)
    assert not capsys.readouterr().out.startswith('\n')
