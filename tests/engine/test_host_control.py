"""One wide detector as its host choices, against detectors of MMDetection that are built so."""

import copy

import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.necks import FPN
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmnas_ext.archs import HostChoice, HostChoices
from mmnas_ext.engine.host_control import HostControl, resize_batch
from mmnas_ext.engine.seeding import generator

SIZE = (96, 64)
OWN = HostChoice(SIZE, 8, 2)
CHOICES = HostChoices(dict(input_size=[(48, 32), SIZE], neck_width=[4, 8, 12], stacked_convs=[1, 2, 3]), OWN, {})
NORM = dict(type='BN')


class Preprocessor(nn.Module):
    """Hands on what it is given."""

    pad_size_divisor = 32

    def forward(self, data, training=False):
        return data


class Detector(nn.Module):
    """Neck and head as a detector has them."""

    def __init__(self, choice, norm=None):
        super().__init__()
        self.data_preprocessor = Preprocessor()
        self.neck = FPN([6, 10], choice.neck_width, 3, add_extra_convs='on_input', norm_cfg=norm)
        self.bbox_head = RetinaHead(3, choice.neck_width, choice.stacked_convs, feat_channels=choice.neck_width,
                                    norm_cfg=norm)  # fmt: skip

    def forward(self, features):
        return [each for row in self.bbox_head(self.neck(features)) for each in row]


def features():
    torch.manual_seed(1)
    return torch.randn(2, 6, 12, 8), torch.randn(2, 10, 6, 4)


def wide(norm=None):
    torch.manual_seed(0)
    model = Detector(CHOICES.widest, norm)
    for parameter in model.parameters():  # biases too, else zeros would hide what is masked too late
        nn.init.normal_(parameter, std=0.3)
    return model


def narrow_of(model, choice, norm=None):
    """A detector of this choice, with the first of the wide one's weights along each axis, cut by shape alone."""
    made, given = Detector(choice, norm), model.state_dict()
    state = {name: given[name][tuple(map(slice, value.shape))] for name, value in made.state_dict().items()}
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize('norm', [None, NORM])
def test_a_masked_wide_host_computes_what_the_narrow_one_does(norm):
    model = wide(norm)
    control = HostControl(model, CHOICES)
    for choice in (CHOICES.widest, OWN, HostChoice(SIZE, 4, 1), HostChoice(SIZE, 12, 2)):
        control.set(choice)
        for ours, theirs in zip(model(features()), narrow_of(model, choice, norm)(features()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    control.set(CHOICES.widest)
    assert all(map(torch.equal, model(features()), wide(norm)(features())))


def test_only_what_a_choice_has_gets_gradients():
    model = wide()
    control = HostControl(model, CHOICES)
    control.set(HostChoice(SIZE, 4, 1))
    sum(each.square().sum() for each in model(features())).backward()
    head = model.bbox_head
    assert head.cls_convs[0].conv.weight.grad[:4, :4].abs().min() > 0
    assert not head.cls_convs[0].conv.weight.grad[4:].any()
    assert not head.retina_cls.weight.grad[:, 4:].any()
    assert head.cls_convs[1].conv.weight.grad is None
    assert head.reg_convs[2].conv.weight.grad is None


def test_a_copy_keeps_its_host_and_hooks_are_there_once():
    model = wide()
    control = HostControl(model, CHOICES)
    count = sum(len(each._forward_hooks) for each in model.modules())
    again = HostControl(model, CHOICES)
    assert sum(len(each._forward_hooks) for each in model.modules()) == count
    again.set(OWN)
    assert control.choice == OWN  # both speak of one model
    kept = copy.deepcopy(model)
    wanted = kept(features())
    control.set(HostChoice(SIZE, 4, 1))
    assert all(map(torch.equal, kept(features()), wanted))
    assert not torch.equal(model(features())[0], wanted[0])
    with pytest.raises(ValueError, match='neck_width must be one of'):
        control.set(HostChoice(SIZE, 5, 1))


def test_draws_follow_from_the_key_alone_and_reach_all_choices():
    control = HostControl(wide(), CHOICES)
    drawn = [control.sample(generator('host of weights', 0, number)) for number in range(200)]
    assert drawn == [control.sample(generator('host of weights', 0, number)) for number in range(200)]
    assert set(drawn) == set(CHOICES.all())
    assert drawn != [control.sample(generator('host of weights', 1, number)) for number in range(200)]


def sample(height, width, boxes):
    found = DetDataSample(metainfo=dict(img_shape=(height, width), scale_factor=(0.5, 0.5)))
    found.gt_instances = InstanceData(bboxes=torch.tensor(boxes))
    return found


def test_images_are_resized_without_their_padding_and_boxes_with_them():
    image = torch.arange(64.0).expand(3, 96, 64)
    padded = torch.zeros(3, 96, 64)
    padded[:, :40, :60] = 7.0
    given = dict(
        inputs=torch.stack([image, padded]),
        data_samples=[sample(96, 64, [[8.0, 16.0, 40.0, 64.0]]), sample(40, 60, [[6.0, 4.0, 30.0, 20.0]])],
    )
    found = resize_batch(given, (0.5, 0.5), 32)
    assert found['inputs'].shape == (2, 3, 64, 32)
    # columns 0 and 1 become their mean
    assert torch.equal(found['inputs'][0, 0, 5], torch.arange(64.0).reshape(32, 2).mean(1))
    assert torch.equal(found['inputs'][1, :, :20, :30], torch.full((3, 20, 30), 7.0))
    assert not found['inputs'][1, :, 20:].any()
    assert not found['inputs'][1, :, :, 30:].any()
    first, second = found['data_samples']
    assert first.gt_instances.bboxes.tolist() == [[4.0, 8.0, 20.0, 32.0]]
    assert second.gt_instances.bboxes.tolist() == [[3.0, 2.0, 15.0, 10.0]]
    assert (second.img_shape, second.scale_factor, second.batch_input_shape) == ((20, 30), (0.25, 0.25), (64, 32))
    assert given['data_samples'][0].gt_instances.bboxes.tolist() == [[8.0, 16.0, 40.0, 64.0]]


def test_only_training_images_are_resized():
    model = wide()
    HostControl(model, CHOICES).set(HostChoice((48, 32), 8, 2))
    given = dict(inputs=torch.zeros(1, 3, *SIZE), data_samples=[sample(*SIZE, [[0.0, 0.0, 8.0, 8.0]])])
    assert model.data_preprocessor(given, False)['inputs'].shape[-2:] == SIZE
    for data in (model.data_preprocessor(given, True), model.data_preprocessor(given, training=True)):
        assert data['inputs'].shape[-2:] == (64, 32)  # 48 padded to a multiple of 32
        assert data['data_samples'][0].gt_instances.bboxes.tolist() == [[0.0, 0.0, 4.0, 4.0]]
