"""Features that are pulled towards the seed's: gradients by hand, a training's files, and nothing left behind."""

import copy
import gc
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODELS

from mmnas_ext.backbones import MBNet
from mmnas_ext.engine import SeedImitationHook, imitation
from mmnas_ext.remap import Seed
from tests.engine import tiny, tiny_seg
from tests.engine.kept import differences, last_checkpoint, train
from tests.engine.test_ddp import both_ranks

SEED_ARCH = tiny.SPACE.arch(((0,), (0, 0), (0,)))
ARCH = tiny.SPACE.arch(((0,), (1, 1), (1,)))
# in the third of eight iterations: 12 * (1 - 2 / (0.5 * 8))
WEIGHT, UNTIL, AT, LENGTH, FACTOR = 12.0, 0.5, 2, 8, 6.0


def make_seed(arch=SEED_ARCH, eps=1e-2):
    """A seed whose batch norms have the statistics of some images."""
    torch.manual_seed(11)
    net = MBNet(arch, out_indices=(2,))
    net.init_weights()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.bias.data.normal_(0, 0.3)
    net.train()(tiny.batch(16, seed=5)['inputs'])
    return Seed(arch.replace(bn_eps=eps), net.state_dict())


def make_model(outputs=(1, 2), **backbone):
    """A model that reads the last output alone."""
    torch.manual_seed(3)
    init = {'type': 'mmnas_ext.Remapped', 'seed': make_seed()}
    cfg = {'type': 'mmnas_ext.MBNet', 'arch': ARCH, 'out_indices': outputs, 'init_cfg': init, **backbone}
    model = MODELS.build({'type': 'TinyModel', 'norm': True, 'backbone': cfg})
    model.init_weights()
    return model.train()


class Spy(torch.optim.SGD):
    """Takes no step, and shows the gradients that it would have used."""

    def step(self, closure=None):
        self.seen = [None if p.grad is None else p.grad.clone() for p in self.param_groups[0]['params']]


def runner_of(model, wrapper, iteration=AT):
    logged = {}
    hub = SimpleNamespace(update_scalar=lambda name, value: logged.setdefault(name, []).append(value))
    return SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=iteration, max_iters=LENGTH, message_hub=hub, logged=logged,
        logger=SimpleNamespace(info=lambda text: None),
    )  # fmt: skip


def step(model, wrapper, batches, hook, inner=None):
    """Steps on batches in one iteration; returns the runner."""
    runner = runner_of(inner or model, wrapper)
    hook.before_train(runner)
    for batch in batches:
        hook.before_train_iter(runner, 0)
        model.train_step(batch, wrapper)
        hook.after_train_iter(runner, 0)
    return runner


def standard(feature):
    """Channels in rows, each in standard form."""
    rows = feature.transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / (rows**2).mean(1, keepdim=True).sqrt()


def by_hand(model, batch, factor=FACTOR, seed=None, outputs=(1, 2)):
    """The sum of both losses, and the loss of the imitation."""
    seed = seed or make_seed()
    teacher = MBNet(seed.arch, out_indices=outputs, norm_cfg={'type': 'BN', 'eps': 1e-2})
    teacher.load_state_dict(dict(seed.state_dict))  # nor its epsilon
    teacher.eval()
    features = model.backbone(batch['inputs'])
    out = model.head(model.norm(features[-1]).mean((2, 3)))
    total = 0.0
    for feature, goal in zip(features, teacher(batch['inputs']), strict=True):
        rows = [standard(each.float()) for each in (feature, goal.detach())]
        total = total + (1 - (rows[0] * rows[1]).mean(1).mean()) / len(features)
    return (out - batch['target']).square().mean() + factor * total, factor * total


def amp(model, monkeypatch, **settings):
    """Mixed precision on a CPU: MMEngine's wrapper, as if there were a GPU, with a scaler for the CPU."""
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    wrapper = AmpOptimWrapper(optimizer=Spy(model.parameters(), lr=1.0), dtype='bfloat16', **settings)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    return wrapper


CASES = {
    'plain': ({}, {}),
    'gathered': ({}, {'accumulative_counts': 2}),
    'frozen': ({'frozen_stages': 2}, {}),  # the first of the outputs as well
    'last stage read by nobody': ({'outputs': (2, 1)}, {}),
    'mixed precision': ({}, {}),
    'mixed precision, gathered': ({}, {'accumulative_counts': 2}),
}


@pytest.mark.parametrize('case', CASES)
def test_gradients_are_those_of_a_summand_of_the_loss(monkeypatch, case):
    monkeypatch.setattr(imitation, '_FLOOR', 0)
    backbone, settings = CASES[case]
    mixed, count = 'mixed' in case, settings.get('accumulative_counts', 1)
    batches = [tiny.batch(seed=number) for number in range(count)]
    model, twin, bare = (make_model(**backbone) for _ in range(3))
    make = (lambda m: amp(m, monkeypatch, **settings)) if mixed else (
        lambda m: OptimWrapper(Spy(m.parameters(), lr=1.0), **settings))  # fmt: skip
    wrapper = make(model)
    runner = step(model, wrapper, batches, SeedImitationHook(WEIGHT, UNTIL))
    logged = []
    for batch in batches:
        with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
            whole, part = by_hand(twin, batch, outputs=twin.backbone.out_indices)
        (whole / count).backward()
        logged.append(float(part.detach()))
    found, wanted = wrapper.optimizer.seen, [p.grad for p in twin.parameters()]
    assert [each is None for each in found] == [each is None for each in wanted]
    assert sum(each is None for each in found) == (27 if case == 'frozen' else 0)
    found, wanted = (torch.cat([each.flatten() for each in grads if each is not None]) for grads in (found, wanted))
    # three summands of a gradient in another order: in bfloat16 that is a rounding of 1/256, which norms amplify
    assert (found - wanted).norm() < (5e-2 if mixed else 1e-4) * wanted.norm()
    torch.testing.assert_close(runner.logged, {'train/loss_imitation': logged}, rtol=5e-2 if mixed else 1e-4, atol=0)
    # and it counts: without the hook they are others
    plain = make(bare)
    for batch in batches:
        bare.train_step(batch, plain)
    pairs = zip(plain.optimizer.seen, bare.parameters(), strict=True)
    alone = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs if p.requires_grad])
    assert (alone - wanted).norm() > 0.1 * wanted.norm()


def step_of_a_rank(folder):
    imitation._FLOOR = 0  # in this process alone
    # the model does not read the last stage: the imitation alone reaches its parameters
    model, rank = make_model((2, 1)), dist.get_rank()
    wrapper = OptimWrapper(Spy(model.parameters(), lr=1.0))
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
    step(wrapped, wrapper, [tiny.batch(seed=rank)], SeedImitationHook(WEIGHT, UNTIL))
    torch.save(wrapper.optimizer.seen, f'{folder}/rank_{rank}.pth')


def test_two_ranks_take_the_mean_of_their_gradients(tmp_path):
    both_ranks(step_of_a_rank, str(tmp_path), tmp_path=tmp_path)
    twin = make_model((2, 1))
    for rank in range(2):
        (by_hand(twin, tiny.batch(seed=rank), outputs=(2, 1))[0] / 2).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f'rank_{rank}.pth', weights_only=True)
        for ours, theirs in zip(found, twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-3, atol=1e-4)


def test_the_distance_is_what_correlations_lack(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(4, 3, 5, 5, generator=draw) for _ in range(2))
    theirs = theirs + torch.tensor([0.0, 1.0, 4.0]).view(3, 1, 1) * ours
    rows = [each.transpose(0, 1).flatten(1).numpy() for each in (ours, theirs)]
    wanted = sum(1 - np.corrcoef(*pair)[0, 1] for pair in zip(*rows, strict=True)) / 3
    with monkeypatch.context() as patch:
        patch.setattr(imitation, '_FLOOR', 0)
        assert float(imitation.distance([ours], [theirs])) == pytest.approx(wanted, rel=1e-4)
        # scale and shift of a channel change nothing; outputs count alike
        scale = torch.tensor([0.1, 1.0, 9.0]).view(3, 1, 1)
        assert float(imitation.distance([scale * ours + 7], [theirs])) == pytest.approx(wanted, rel=1e-3)
        both = imitation.distance([ours, theirs], [theirs, -theirs])
        assert float(both) == pytest.approx((wanted + 2) / 2, rel=1e-4)
    assert imitation.distance([ours], [ours]) == 0
    # a channel that hardly varies is no noise to be imitated
    calm = theirs * torch.tensor([1e-3, 1.0, 1.0]).view(3, 1, 1)
    assert float(imitation.distance([theirs], [calm])) == pytest.approx(0.5 / 3, rel=0.1)
    # a single pixel of an image varies in nothing: no division by that
    pixel = torch.full((1, 2, 1, 1), 3.0, requires_grad=True)
    loss = imitation.distance([pixel], [2 * pixel.detach()])
    loss.backward()
    assert (float(loss), pixel.grad.abs().max()) == (0, 0)


@pytest.mark.parametrize(('until', 'wanted'), [
    (0.5, [2, 1.5, 1, 0.5, 0, 0, 0, 0]), (1.0, [2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25]), (0.01, [2] + 7 * [0]),
])  # fmt: skip
def test_the_factor_falls_in_a_line(until, wanted):
    hook = SeedImitationHook(2.0, until)
    assert [hook.factor(iteration, 8) for iteration in range(8)] == pytest.approx(wanted)


def networks():
    """How many networks there are in this process."""
    gc.collect()
    return sum(isinstance(each, MBNet) for each in gc.get_objects())


def test_only_what_is_trained_imitates():
    model, hook = make_model(), SeedImitationHook(WEIGHT, UNTIL)
    model.backbone.stem.conv.weight.data.mul_(2)  # in eval mode a remapped network may be its seed's equal
    keys, count, bits = list(model.state_dict()), len(list(model.parameters())), torch.get_rng_state()
    batch = tiny.batch()
    calm = copy.deepcopy(model).eval()(**batch)
    runner = runner_of(model, OptimWrapper(Spy(model.parameters(), lr=1.0)))
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert torch.equal(torch.get_rng_state(), bits)
    # nothing of the seed is the model's, or in a copy of it
    assert (list(model.state_dict()), len(list(model.parameters()))) == (keys, count)
    before = networks()
    twin = copy.deepcopy(model)
    assert networks() == before + 1
    assert twin.state_dict().keys() == model.state_dict().keys()
    # neither eval mode nor a forward without gradients
    assert torch.equal(model.eval()(**batch), calm)
    with torch.no_grad():
        model.train()(**batch)
    hook.after_train_iter(runner, 0)
    assert runner.logged == {'train/loss_imitation': [0.0]}
    # with the last iteration that imitates the seed is gone
    runner.iter = 3
    hook.after_train_iter(runner, 0)
    del twin  # it would imitate too
    assert networks() == before - 1


def test_what_reads_a_feature_may_change_it_in_place():
    model, hook, batch = make_model(), SeedImitationHook(), tiny.batch()
    hook.before_train(runner_of(model, OptimWrapper(Spy(model.parameters(), lr=1.0)), 0))
    first = model.backbone(batch['inputs'])[0]
    first.relu_().sum().backward()
    assert first.min() == 0


def test_the_seed_has_the_epsilon_that_is_known_and_the_layout_of_the_backbone():
    model = make_model(channels_last=True, norm_cfg={'type': 'BN', 'eps': 1e-4}, output_stride=16)
    built = imitation.build_imitated(make_seed(), model.backbone)
    assert (built.bn_eps, built.channels_last, built.output_stride, built.training) == (1e-2, True, 16, False)
    assert not any(parameter.requires_grad for parameter in built.parameters())
    seed = make_seed(eps=None)
    assert imitation.build_imitated(seed, model.backbone).bn_eps == 1e-4  # a guess gives way to what a config says


class Scaling(OptimWrapper):
    """One whose backward pass nothing is known of."""

    def backward(self, loss, **kwargs):
        super().backward(7 * loss, **kwargs)


@pytest.mark.parametrize(('arguments', 'error', 'message'), [
    ({'weight': 0}, ValueError, 'weight must be a positive number, got 0'),
    ({'weight': True}, ValueError, 'weight must be a positive number, got True'),
    ({'weight': float('inf')}, ValueError, 'weight must be a positive number, got inf'),
    ({'until': 0}, ValueError, r'until must be a share of the training in \(0, 1\], got 0'),
    ({'until': 1.5}, ValueError, r'until must be a share of the training in \(0, 1\], got 1.5'),
    ({'until': '1'}, ValueError, "until must be a share of the training .* got '1'"),
    ({'seed': {'arch': 'dna_a'}}, ValueError, "seed must have the key 'checkpoint'"),
    ({'seed': 3}, TypeError, 'seed must be a dict of .* got int'),
])  # fmt: skip
def test_arguments_that_say_nothing(arguments, error, message):
    with pytest.raises(error, match=message):
        SeedImitationHook(**arguments)


FIRST = "[[8, 4], ['k3_e1'], 1]|"
UNFIT = {
    f"{FIRST}[[4, 12], ['k3_e3'], 2]|[[12, 8], ['k3_e3'], 1]":
        'output 1 of the network has 8 channels at stride 4, that of the seed 12 at stride 4: only equal ones',
    f"{FIRST}[[4, 8], ['k3_e3'], 2]|[[8, 8], ['k3_e3'], 2]":
        'output 2 of the network has 8 channels at stride 4, that of the seed 8 at stride 8: only equal ones',
    f"{FIRST}[[4, 8], ['k3_e3'], 2]": 'the seed cannot be imitated: out_indices must be among .*, got 2',
}  # fmt: skip


@pytest.mark.parametrize('arch', UNFIT)
def test_a_seed_of_other_outputs_is_refused(arch):
    model = make_model()
    net = MBNet(arch, out_indices=(1,))
    seed = Seed(net.arch, net.state_dict())
    with pytest.raises(ValueError, match=UNFIT[arch]):
        SeedImitationHook(seed=seed).check(model, OptimWrapper(Spy(model.parameters(), lr=1.0)))


@pytest.mark.parametrize(('backbone', 'wrapper', 'message'), [
    ({'frozen_stages': 3}, OptimWrapper, r'frozen_stages=3 leaves nothing to train before the outputs \[1, 2\]'),
    ({'init_cfg': None}, OptimWrapper, "no seed to imitate: the backbone's init_cfg remaps none .* by seed=dict"),
    ({}, Scaling, 'needs an optim_wrapper of type OptimWrapper or AmpOptimWrapper, got Scaling'),
    (None, OptimWrapper, 'needs a model whose backbone is an MBNet, got SuperNet in TinyModel'),
])  # fmt: skip
def test_a_training_that_cannot_imitate_is_refused(backbone, wrapper, message):
    model = tiny.build()[0] if backbone is None else make_model(**backbone)
    made = wrapper(Spy(model.parameters(), lr=1.0))
    with pytest.raises(ValueError, match=message):
        SeedImitationHook().check(model, made)
    with pytest.raises(ValueError, match=message):  # without the checks of a run too
        SeedImitationHook().before_train(runner_of(model, made))


def test_the_backbones_own_seed_among_other_initialisers():
    plain, remapped = (
        {'type': 'Constant', 'layer': 'Linear', 'val': 0},
        {'type': 'mmnas_ext.Remapped', 'seed': make_seed()},
    )
    model = make_model(init_cfg=[plain, remapped])
    runner = step(
        model, OptimWrapper(Spy(model.parameters(), lr=1.0)), [tiny.batch()], SeedImitationHook(WEIGHT, UNTIL)
    )
    other = SeedImitationHook(WEIGHT, UNTIL, seed=make_seed())
    twin = step(make_model(), OptimWrapper(Spy(model.parameters(), lr=1.0)), [tiny.batch()], other)
    assert runner.logged == twin.logged
    assert runner.logged['train/loss_imitation'][0] > 0.1


def test_features_come_nearer_to_the_seeds():
    far, batch = [], tiny.batch(8)
    for hook in (SeedImitationHook(WEIGHT, 1.0), SeedImitationHook(1e-9, 1.0)):
        model = make_model()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
        step(model, wrapper, [batch] * 20, hook)
        features = model.backbone(batch['inputs'])
        far.append(
            float(
                imitation.distance(
                    features, imitation.build_imitated(make_seed(), model.backbone)(batch['inputs'])
                ).detach()
            )
        )
    assert far[0] < 0.5 * far[1]


# --- trainings by MMEngine's runner ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def seed_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('seed') / 'seed.pth'
    torch.save(make_seed().state_dict, path)
    return str(path)


def segmentor(folder, seed_file, *kills, until=0.5, hook=True):
    """Trains a segmentor for eight iterations, killed before some of them."""
    init = {'type': 'mmnas_ext.Remapped', 'seed': {'arch': SEED_ARCH.format('fna'), 'checkpoint': seed_file}}
    for number, kill in enumerate((*kills, None)):
        cfg = tiny_seg.training_cfg(folder, **{'model.backbone.init_cfg': init})
        cfg.experiment_name = f'{folder.parent.name} {folder.name} {number}'
        cfg.default_hooks.logger = {'type': 'LoggerHook', 'interval': 1}
        cfg.visualizer = {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
        cfg.log_processor = {'by_epoch': False, 'window_size': 1}
        if hook:
            cfg.custom_hooks = [{'type': 'mmnas_ext.SeedImitationHook', 'weight': 2.0, 'until': until}]
        if kill is None:
            train(cfg, resume=True)
            continue
        cfg.custom_hooks += [{'type': 'StopVisualizationHook', 'at': kill}]
        with pytest.raises(tiny_seg.KilledError):
            train(cfg, resume=True)
    return folder


def scalars(folder):
    """What the last runner logged, as trackers get it: the number of each iteration and its losses."""
    (file,) = sorted(folder.glob('*/vis_data/scalars.json'))[-1:]
    return {line['step']: line for line in map(json.loads, file.read_text().splitlines())}


def test_a_training_imitates_for_its_first_half_and_resumes_to_the_same_bits(tmp_path, seed_file, monkeypatch):
    made, original = [], imitation.build_imitated
    monkeypatch.setattr(imitation, 'build_imitated', lambda *a: made.append(weakref.ref(net := original(*a))) or net)
    whole = segmentor(tmp_path / 'whole', seed_file)
    assert len(made) == 1
    killed = segmentor(tmp_path / 'killed', seed_file, 5, 7)
    assert len(made) == 3  # checkpoints are of iterations 3 and 6: the last begins after the imitation's end
    gc.collect()
    assert [ref() for ref in made] == [None, None, None]
    plain = segmentor(tmp_path / 'plain', seed_file, hook=False)
    kept = [last_checkpoint(folder)[1] for folder in (whole, killed, plain)]
    assert differences(kept[0], kept[1]) == []
    assert list(kept[0]['state_dict']) == list(kept[2]['state_dict'])
    assert kept[0]['optimizer']['param_groups'] == kept[2]['optimizer']['param_groups']
    moved = differences(kept[0]['state_dict'], kept[2]['state_dict'])
    assert '/backbone.stem.conv.weight' in moved
    logged, without = scalars(whole), scalars(plain)
    shares = [logged[step]['loss_imitation'] for step in range(1, 9)]
    assert all(share > 0.05 for share in shares[:4])
    assert shares[4:] == [0, 0, 0, 0]
    assert scalars(killed)[8]['loss_imitation'] == 0
    # the model's own loss is what it was, until the first update
    assert logged[1]['loss'] == without[1]['loss'] and logged[2]['loss'] != without[2]['loss']
    assert 'loss_imitation' not in without[1]
