"""Necks and heads that cannot read the backbone, met before the run, in either half."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.readers import check_readers
from tests.engine import tiny, tiny_distill, tiny_seg

ARCH = tiny.SPACE.arch(((0,), (0, 1), (0,))).format('fna')
BACKBONE = {'type': 'mmnas_ext.MBNet', 'arch': ARCH, 'out_indices': (1, 2)}


def segmentor(out_indices=(1, 2), **changes):
    cfg = tiny_seg.model_cfg({**BACKBONE, 'out_indices': out_indices})
    cfg['decode_head']['in_index'] = 1
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build({**cfg, **changes})


def retinanet(**changes):
    neck = {'type': 'FPN', 'in_channels': [8, 8], 'out_channels': 8, 'num_outs': 5, **changes}
    head = {'type': 'RetinaHead', 'num_classes': 2, 'in_channels': 8, 'feat_channels': 8, 'stacked_convs': 1}
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build({'type': 'RetinaNet', 'backbone': BACKBONE, 'neck': neck, 'bbox_head': head})


def test_what_fits_is_read_and_left_as_it_was():
    for model in (segmentor(), retinanet()):
        model.backbone.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        check_readers(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module.training for module in model.backbone.modules())
        assert model.training and model.bbox_head.training if hasattr(model, 'bbox_head') else model.training


@pytest.mark.parametrize(('build', 'said'), [
    (lambda: segmentor((0, 1, '2.expand', 2), neck={'type': 'Feature2Pyramid', 'embed_dim': 32}),
     r'^x: model.neck \(Feature2Pyramid\) cannot read what the backbone gives, \[4, 8, 24, 8\] channels at strides '
     r'\[2, 4, 4, 4\]: RuntimeError: .*\[32, 32, 2, 2\]'),
    (lambda: segmentor(neck={'type': 'Feature2Pyramid', 'embed_dim': 8, 'rescales': [4, 2, 1]}),
     'cannot read what the backbone gives.*: AssertionError'),
    (lambda: segmentor(neck={'type': 'FPN', 'in_channels': [8, 8], 'out_channels': 4, 'num_outs': 2}),
     r'^x: model.decode_head \(FNASegHead\) cannot read what the neck gives: RuntimeError'),
    (lambda: retinanet(out_channels=16), r'model.bbox_head \(RetinaHead\) cannot read what the neck gives'),
    (lambda: retinanet(num_outs=4), r'model.bbox_head \(RetinaHead\) has strides for 5 features, and gets 4'),
])  # fmt: skip
def test_what_does_not_fit(build, said):
    with pytest.raises(ValueError, match=said) as error:
        check_readers(build(), 'x: ')
    assert len(str(error.value)) <= 300 and '\n' not in str(error.value)


class Asking(nn.Module):
    """A head that takes more than features."""

    def forward(self, features, samples):
        raise AssertionError


class Large(nn.Module):
    """A head that needs a feature of 8x8."""

    def forward(self, features):
        return features[-1][:, :, 7, 7].sum() + features[-1][:, :, 100, 100].sum()


@pytest.mark.parametrize('head', [Asking, Large])
def test_a_head_that_cannot_be_asked_like_this(head):
    model = segmentor()
    model.data_preprocessor.size = (512, 640)  # of the crops
    model.decode_head = head()
    check_readers(model)
    model.decode_head = nn.ModuleList([head(), head()])
    check_readers(model)


def test_a_head_that_needs_larger_images_than_the_crops():
    model = segmentor()
    model.data_preprocessor.size = (384, 512)  # features of 96x128
    model.decode_head = Large()
    with pytest.raises(ValueError, match=r'^model.decode_head \(Large\) cannot read what the backbone gives'):
        check_readers(model)


def test_a_window_that_small_crops_do_not_fill():
    """MMSegmentation's LR-ASPP pools 49x49 positions: crops of 512 pixels have them at stride 4, of 192 do not."""
    settings = {
        'in_channels': (4, 8, 8), 'in_index': (0, 1, 2), 'channels': 4, 'branch_channels': (4, 4), 'num_classes': 3,
        'input_transform': 'multiple_select', 'norm_cfg': {'type': 'BN'}, 'align_corners': False,
    }  # fmt: skip
    for kind, crop, fits in (
        ('LRASPPHead', 512, True),
        ('LRASPPHead', 192, False),
        ('mmnas_ext.LRASPPHead', 192, True),
    ):
        model = segmentor((0, 1, 2), decode_head={'type': kind, **settings})
        model.data_preprocessor.size = (crop, crop)
        if fits:
            check_readers(model)
        else:
            with pytest.raises(ValueError, match=r'model.decode_head \(LRASPPHead\) cannot read .*too small'):
                check_readers(model)


def test_the_second_half_of_a_distillation(tmp_path):
    """Its own config names a neck, whose channels no check of keys can compare."""
    second = tiny_seg.training_cfg(tmp_path).to_dict()
    second['model']['neck'] = {'type': 'Feature2Pyramid', 'embed_dim': 3}
    (tmp_path / 'second.py').write_text('\n'.join(f'{key} = {value!r}' for key, value in second.items()))
    cfg = tiny_distill.config(tmp_path, derived={'config': 'second.py', 'weights': None})
    with pytest.raises(ValueError, match=r'^derived: model.neck \(Feature2Pyramid\) cannot read what the backbone'):
        check_config(cfg)
