"""Networks of a search of whole detectors that are drawn or given: within the limit, in their own host."""

import pytest
from mmengine.config import Config

from mmnas_ext.archs import cost
from mmnas_ext.datasets import make_detection
from mmnas_ext.runs.manifest import ADAPT, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.usual_rows import draw_near, usual_rows
from mmnas_ext.workdir import WorkDir
from tests.engine.tiny_seg import KilledError
from tests.runs.test_host_choices import OWN, SPACE, config, counted, scales, widths


def test_a_comparison_draws_within_the_limit_on_the_whole_detector(tmp_path):
    networks = [SPACE.arch(((0,), (i,), (j,), (k,))) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    wholes = sorted(cost(arch, OWN.input_size).macs + counted(OWN) for arch in networks)
    cfg = config(limit=float(wholes[5]), **{'train_cfg.max_epochs': 2, 'train_cfg.arch_start': 1})
    for arch in draw_near(cfg, 2, 0):
        assert 0.9 * wholes[5] <= cost(arch, OWN.input_size).macs + counted(OWN) <= wholes[5]
    with pytest.raises(ValueError, match='cost.max'):
        draw_near(config(limit=wholes[0] - 1.0), 1, 0)
    # alpha, which is trained here, could not choose the host by itself
    rows = usual_rows(cfg, tmp_path, (0,))
    assert [(row.name, row.options) for row in rows] == [('seed', ()), ('found', ())]


def test_a_given_network_goes_on_in_its_host(tmp_path, monkeypatch):
    shapes, work = tmp_path / 'det', tmp_path / 'work'
    make_detection(shapes, train=8, val=2, size=(96, 96))
    arch = SPACE.arch(((0,), (0,), (0,), (0,))).format('fna')
    cfg = config(work, shapes, host_choice='48x48-w8-c1')

    def killed(self, *_):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr('mmengine.optim.OptimWrapper.update_params', killed)
        with pytest.raises(KilledError):
            run(cfg, arch=arch)
    run(config(work, shapes), resume=True)
    trained = Config.fromfile(WorkDir(work).adapt / 'config.py')
    assert (widths(trained), scales(trained)) == ((8, 8, 8), [(48, 48)] * 3)
    assert read_manifest(work / 'run.json').is_done(ADAPT)
