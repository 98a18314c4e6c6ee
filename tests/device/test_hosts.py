"""The paper's detector and segmentor on the device: steps of both phases and a prediction, deterministic throughout."""

import os

import pytest
import torch

from mmnas_ext.engine.optim import SearchOptimWrapperConstructor
from tests.small import CROP, read
from tests.test_configs import built


@pytest.mark.parametrize('name', ['fna_retinanet_coco.py', 'fna_deeplabv3_cityscapes.py'])
def test_a_host_searches_and_predicts(device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, 'CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)  # an operator without a deterministic kernel raises
    cfg = read(name)
    for phase in ('weights', 'arch'):
        cfg.optim_wrapper[phase].pop('accumulative_counts', None)
    with built(cfg) as (model, images):
        model.init_weights()
        model.to(device)
        settings = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
        wrapper = SearchOptimWrapperConstructor(settings)(model)
        for phase in ('weights', 'arch'):
            wrapper.start(phase, iteration=0)
            losses = model.train_step(images, wrapper)
            assert all(
                torch.isfinite(loss).all() and loss.device.type == torch.device(device).type for loss in losses.values()
            )
        model.eval()
        for sample in images['data_samples']:
            sample.set_metainfo({'ori_shape': CROP, 'img_shape': CROP, 'pad_shape': CROP})
        samples = model.test_step({name: each[:1] for name, each in images.items()})
    assert len(samples) == 1
    for sample in samples:
        if cfg.default_scope == 'mmdet':
            found = sample.pred_instances
            assert (
                found.bboxes.shape == (len(found.scores), 4) and found.bboxes.device.type == torch.device(device).type
            )
        else:
            labels = sample.pred_sem_seg.data
            assert labels.device.type == torch.device(device).type
            assert 0 <= int(labels.min()) <= int(labels.max()) < cfg.model.decode_head.num_classes
