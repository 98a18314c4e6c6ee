"""Single lines of an evolution: what leaves a base's without effect, and what would repeat images."""

import pytest

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.run import prepare
from mmnas_ext.search.evolution import Evolving
from tests.own_data import CONFIGS
from tests.runs.test_evolution import BRED, config, refused


def test_a_metric_in_one_line_leaves_the_batches_of_a_base_out(tmp_path):
    base = CONFIGS / 'evolution_retinanet_mbv2_steel.py'
    file = tmp_path / 'mine.py'
    file.write_text(f"_base_ = '{base}'\nevolution = dict(rank_by='coco/bbox_mAP')\n")
    found = Evolving.parse(prepare(file).evolution)
    assert (found.rank_by, found.population, found.images) == ('coco/bbox_mAP', 16, 256)
    assert Evolving.parse(prepare(base, options={'evolution.rank_by': 'coco/bbox_mAP'}).evolution) == found
    # and a metric's settings where losses rank again
    again = tmp_path / 'again.py'
    file.write_text(f"_base_ = '{base}'\nevolution = dict(rank_by='coco/bbox_mAP', images=64, batches=None)\n")
    again.write_text("_base_ = './mine.py'\nevolution = dict(rank_by='loss', batches=4)\n")
    assert Evolving.parse(prepare(again).evolution) == Evolving.parse(prepare(base).evolution)
    # bases of a package, too
    file.write_text(
        "_base_ = 'mmnas_ext::evolution_retinanet_mbv2_steel.py'\nevolution = dict(rank_by='coco/bbox_mAP')\n"
    )
    assert Evolving.parse(prepare(file).evolution) == found
    # what the same file says of both, or a nearer one of the other, is no base's
    file.write_text(f"_base_ = '{base}'\nevolution = dict(rank_by='coco/bbox_mAP', batches=4)\n")
    for options in ({}, {'evolution.batches': 8}):
        with pytest.raises(ValueError, match='evolution.batches has no effect .*or set it to None where a base has it'):
            Evolving.parse(prepare(file, options=options).evolution)


def test_finalists_are_not_decided_on_images_that_made_them_ones(tmp_path):
    # of 20 images in batches of two, ten are held out
    images = {'train_dataloader.dataset.count': 20}
    check_config(config(tmp_path / 'work', {**BRED, 'batches': 3}, **images))
    said = refused(tmp_path, {**BRED, 'batches': 4}, **images)
    assert 'final_batches must be at most 5 together, the batches of the held-out half, got 4 and 2' in said
