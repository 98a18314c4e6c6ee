"""FNA's SSDLite recipe as its configs build it: figures of the whole detector, optimizers, data, the small variant."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS, TRANSFORMS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmnas_ext.archs import zoo
from mmnas_ext.engine.batches import build_halves
from mmnas_ext.engine.loops import Alternation
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.resolve import resolve
from tests.fidelity.render import halves
from tests.own_data import DETECTOR, halves_of
from tests.small import FOLDER, read, small

SEARCH, ONE_GPU, FEW = 'fna_ssdlite_coco.py', 'fna_ssdlite_coco_1gpu.py', 'fna_ssdlite_mbv2_photos5.py'


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def both(name: str) -> dict[str, Config]:
    """The search and what it derives, as they are built."""
    return {'': read(name), 'derived.': derived_config(read(name), zoo.arch('fna_ssdlite'))}


def test_the_small_variants_header_counts_its_iterations() -> None:
    search, trained = both(FEW).values()
    batch = search.train_dataloader.batch_size
    # 526 images: half of them train the weights of the search; short batches are dropped
    steps = search.train_cfg.max_epochs * (526 // 2 // batch), trained.train_cfg.max_epochs * (526 // batch)
    assert (search.train_dataloader.drop_last, trained.train_dataloader.drop_last) == (True, True)
    header = (FOLDER / FEW).read_text()
    assert '# Cost: {} iterations of the search and {} of the adaptation.'.format(*steps) in header


def unscoped(value: Any) -> Any:
    """A part of a config without the scope that MMEngine writes beside what it takes from another package."""
    if isinstance(value, dict):
        return {key: unscoped(inner) for key, inner in value.items() if key != '_scope_'}
    return [unscoped(inner) for inner in value] if isinstance(value, list | tuple) else value


def counted(model: nn.Module, size: int = 320) -> tuple[int, int]:
    """Parameters and multiply-adds of a whole detector: a convolution uses each weight once per position."""
    total = 0

    def count(conv: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * conv.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.bbox_head(model.extract_feat(torch.empty(1, 3, size, size, device='meta')))
    return sum(p.numel() for p in model.parameters()), total


@pytest.mark.parametrize(
    ('name', 'params', 'madds'),
    [('ssdlite_fna_coco.py', 4_630_316, 880_333_504), ('ssdlite_mbv2_coco.py', 4_322_988, 808_218_304)],
)
def test_cost_of_the_detectors_is_exact(name: str, params: int, madds: int) -> None:
    with torch.device('meta'):
        model = MODELS.build(small(read(name)).model).eval()
    assert sum(p.numel() for p in model.neck.parameters()) == 656_960
    assert sum(p.numel() for p in model.bbox_head.parameters()) == 1_442_156
    assert counted(model) == (params, madds)


def test_what_the_search_finds_is_built_into_the_same_detector() -> None:
    """The network of the paper, put through the search config's second half, costs what its own config's does."""
    derived = derived_config(read(SEARCH), zoo.arch('fna_ssdlite'))
    published = read('ssdlite_fna_coco.py')
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'train_dataloader', 'custom_hooks'):
        assert unscoped(derived[key]) == unscoped(published[key]), key
    for part in ('neck', 'bbox_head', 'train_cfg', 'test_cfg', 'data_preprocessor'):
        assert unscoped(derived.model[part]) == unscoped(published.model[part]), part
    with torch.device('meta'):
        assert counted(MODELS.build(small(derived).model).eval()) == (4_630_316, 880_333_504)


def test_both_halves_begin_as_their_recipes_say() -> None:
    torch.manual_seed(0)
    for half, kind in (('', 'kaiming'), ('derived.', 'normal')):
        model = MODELS.build(small(both(SEARCH)[half]).model)
        for part in (model.neck, model.bbox_head):
            part.init_weights()
            convs = [m for m in part.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 20_000]
            assert len(convs) > 5
            for conv in convs:
                fan_out = conv.weight.shape[0] * conv.weight[0, 0].numel()  # as mmcv's kaiming_init counts it
                wanted = 0.03 if kind == 'normal' else (2 / fan_out) ** 0.5
                assert conv.weight.std().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize('name', [SEARCH, ONE_GPU])
def test_norms_are_synchronised_in_the_adaptation_on_several_gpus_alone(name: str) -> None:
    for half, cfg in halves(name).items():
        kinds = {part.get('norm_cfg', dict(type='BN'))['type'] for part in (
            cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head)}  # fmt: skip
        assert kinds == ({'SyncBN'} if half and name == SEARCH else {'BN'})


def test_a_step_of_rmsprop_is_the_recipes() -> None:
    """eps 1 beside the root of the average, weight decay 4e-5 on all, no clipping: by hand for a gradient of 100."""
    for half, lr in (('', 0.05), ('derived.', 0.2)):
        given = halves(SEARCH)[half].optim_wrapper
        wrapper = build_optim_wrapper(nn.Linear(1, 1, bias=False), given if half else given.weights)
        (weight,) = (p for group in wrapper.optimizer.param_groups for p in group['params'])
        weight.data.fill_(2.0)
        wrapper.update_params((100 * weight).sum())
        gradient = 100 + 4e-5 * 2
        assert weight.item() == pytest.approx(2 - lr * gradient / ((0.01 * gradient**2) ** 0.5 + 1), rel=1e-5)


def test_one_arch_step_in_five_weight_steps() -> None:
    cfg = read(SEARCH).train_cfg
    alternation = Alternation(None, None, 100, cfg.arch_interval)
    assert (cfg.max_epochs, cfg.arch_start, cfg.arch_interval) == (30, 15, 5)
    assert [alternation.arch_steps(100 + done) for done in (0, 1, 5, 6, 50)] == [0, 1, 1, 2, 10]


# ---------------------------------------------------------------- data


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Nine images of a disc, one without any box, in COCO's layout."""
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'train2017').mkdir()
    images, boxes = [], []
    for number in range(9):
        image = np.full((60, 90, 3), 20 * number, np.uint8)
        cv2.circle(image, (45, 30), 20, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / 'train2017' / f'{number}.png'), image)
        images.append(dict(id=number, file_name=f'{number}.png', height=60, width=90))
        if number:
            boxes.append(dict(id=number, image_id=number, category_id=1, bbox=[25, 10, 40, 40], area=1600, iscrowd=0))
    text = json.dumps(dict(images=images, annotations=boxes, categories=[dict(id=1, name='person')]))
    (tmp_path / 'annotations' / 'instances_train2017.json').write_text(text)
    return tmp_path


def test_halves_repeat_their_images_and_share_none(coco: Path) -> None:
    cfg = read(SEARCH)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.data_root': f'{coco}/'})
    loop, runner = cfg.train_cfg, SimpleNamespace(seed=0, build_dataloader=Runner.build_dataloader)
    loader = dict(cfg.train_dataloader.to_dict(), batch_size=2, num_workers=0)
    found = build_halves(runner, loader, loop.weight_fraction, loop.split_seed, loop.pipelines.to_dict())
    views: Any = [batches.loader.dataset for batches in found]
    seen = [[view.get_data_info(index)['img_id'] for index in range(len(view))] for view in views]
    # eight images with a box: four for each half, each of them five times
    assert [len(half) for half in seen] == [20, 20]
    assert [sorted({half.count(number) for number in set(half)}) for half in seen] == [[5], [5]]
    assert set(seen[0]) & set(seen[1]) == set() and set(seen[0]) | set(seen[1]) == set(range(1, 9))
    # and what is read says the same: a pass of ten batches, flipped in the half of alpha alone
    for batches, numbers, flips in zip(found, seen, ({False}, {False, True}), strict=True):
        batches.start(0)
        read_here = [sample for _ in range(10) for sample in next(batches)['data_samples']]
        assert sorted(sample.img_id for sample in read_here) == sorted(numbers)
        assert {sample.get('flip', False) for sample in read_here} == flips
        batches.close()


def test_the_adaptation_repeats_all_images(coco: Path) -> None:
    cfg = halves(SEARCH)['derived.'].copy()
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.data_root': f'{coco}/'})
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    seen = [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))]
    assert sorted(seen) == sorted([*range(1, 9)] * 5)


def test_images_are_resized_without_their_ratio_and_the_mean_subtracted(coco: Path) -> None:
    cfg = read(SEARCH)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.data_root': f'{coco}/'})
    kinds = [step.type for step in cfg.train_dataloader.dataset.dataset.pipeline]
    assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'PhotoMetricDistortion', 'Expand', 'MinIoURandomCrop',
                     'Resize', 'RandomFlip', 'PackDetInputs']  # fmt: skip
    item = DATASETS.build(cfg.train_dataloader.dataset)[3]
    assert item['inputs'].shape == (3, 320, 320)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    gray = preprocessor(dict(inputs=[torch.full((3, 8, 8), 130, dtype=torch.uint8)], data_samples=None))['inputs']
    for channel, mean in enumerate((123.675, 116.28, 103.53)):
        assert gray[0, channel].unique().item() == pytest.approx(130 - mean, abs=1e-4)
    expand = TRANSFORMS.build(dict(cfg.train_dataloader.dataset.dataset.pipeline[3], prob=1.0))
    wide = expand(dict(img=np.zeros((4, 4, 3), np.float32), gt_bboxes=item['data_samples'].gt_instances.bboxes))['img']
    border = wide.reshape(-1, 3).max(0)  # files are read as BGR
    assert border.tolist() == pytest.approx([103.53, 116.28, 123.675])


@pytest.mark.parametrize('name', [SEARCH, FEW])
def test_ones_own_images_and_classes_reach_both_halves(name: str) -> None:
    cfg = resolve(Config.fromfile(FOLDER / name), {'classes': ('a', 'b', 'c'), 'data_root': 'elsewhere/'})
    for half in (cfg, derived_config(cfg, zoo.arch('fna_ssdlite'))):
        dataset = half.train_dataloader.dataset
        leaf = dataset.dataset if name == SEARCH else dataset
        assert (dataset.type == 'RepeatDataset') == (name == SEARCH)
        assert tuple(leaf.metainfo.classes) == ('a', 'b', 'c') and leaf.data_root == 'elsewhere/'
        assert half.model.bbox_head.num_classes == 3
        assert half.val_dataloader.dataset.data_root == 'elsewhere/'


# ---------------------------------------------------------------- what runs


def test_the_detector_validates_in_both_halves() -> None:
    """Which MMDetection's own SSD head does not."""
    for cfg in both(FEW).values():
        model = MODELS.build(small(cfg).model).eval()
        images = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_classes=5)
        with torch.no_grad():
            found = model.val_step(images)
        for each in found:
            instances = each.pred_instances
            assert instances.bboxes.shape == (len(instances.scores), 4)
            assert len(instances.scores) <= 200 and (instances.scores > 0.02).all()


def test_heads_of_another_ssd_are_exchanged_for_one_that_predicts() -> None:
    for half in halves_of(DETECTOR, host='mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'):
        assert half.model.bbox_head.type == 'mmnas_ext.SSDHead'
        model = MODELS.build(small(half).model).eval()
        with torch.no_grad():
            found = model.val_step(demo_mm_inputs(1, [(3, 64, 64)], num_classes=80))
        assert found[0].pred_instances.scores.ndim == 1


def test_headers_say_the_figures_that_are_counted() -> None:
    for name, figures in (('fna', ('880,333,504', '4,630,316')), ('mbv2', ('808,218,304', '4,322,988'))):
        text = (FOLDER / f'ssdlite_{name}_coco.py').read_text()
        assert all(re.search(figure, text) for figure in figures)
