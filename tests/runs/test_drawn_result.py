"""What a run draws when it has ended, and the command that it keeps."""

import sys
from types import SimpleNamespace

import pytest

from mmnas_ext.runs import run as running
from mmnas_ext.runs.session import command_line
from mmnas_ext.workdir import WorkDir


def test_predictions_and_a_page_that_fail_cost_the_run_nothing(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise KeyError('img_path')

    session = SimpleNamespace(files=WorkDir(tmp_path))
    monkeypatch.setattr(running, 'sample_run', fail)
    running._draw_result(lambda root: (root / 'network.png', root / 'report.html'), session)
    running._draw_result(fail, session)
    lost = "warning: no predictions on the page, since KeyError: 'img_path'"
    drawn = [
        f'page: {tmp_path}/report.html',
        "warning: no report, since KeyError: 'img_path'; mmnas report draws it later",
    ]
    assert capsys.readouterr().out.splitlines() == [lost, drawn[0], lost, drawn[1]]


@pytest.mark.parametrize(
    ('argv', 'wanted'),
    [
        (
            ['tools/train.py', 'a.py', '--cfg-options', 'x=(1, 2)'],
            "python tools/train.py a.py --cfg-options 'x=(1, 2)'",
        ),
        (['/some/bin/mmnas', 'train', 'a'], 'mmnas train a'),
    ],
)
def test_a_command_is_kept_as_one_would_write_it(monkeypatch, argv, wanted):
    monkeypatch.setattr(sys, 'argv', argv)
    assert command_line() == wanted
