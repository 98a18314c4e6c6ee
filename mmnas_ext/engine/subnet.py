"""A network with the weights that a super-network trained for it, measured on held-out images as any network is."""

import copy
import math
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from numbers import Real
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.registry import METRICS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import Choices
from mmnas_ext.datasets.halves import DatasetView
from mmnas_ext.engine.batches import build_pipelines
from mmnas_ext.engine.optim import find_supernet, rest_dropouts
from mmnas_ext.ops import MixedLayer
from mmnas_ext.ops.statistics import averaged_statistics

_FRESH = 'without_statistics'  # mark of a norm whose statistics were never measured


def subnet(model: nn.Module, path: Choices) -> Any:
    """A copy of a model whose super-network is one network: the candidates of a path, as ordinary layers.

    Candidates get running statistics of batch norms, which must be measured (`calibrate`) before it is used in eval
    mode.

    Args:
        model: The detector, segmentor or classifier, wrapped or not.
        path: A candidate index per layer, per stage.
    """
    inner: Any = copy.deepcopy(model.module if is_model_wrapper(model) else model)
    supernet = find_supernet(inner)
    supernet.space.check_path(path)
    for number, (stage, choices) in enumerate(zip(supernet.layers(), path, strict=True)):
        kept = nn.ModuleList()
        for layer, choice in zip(stage, choices, strict=True):
            module = layer.candidate(choice) if isinstance(layer, MixedLayer) else layer
            if module is not None:
                kept.append(module)
        supernet.stages[number] = kept
    for norm in _norms(supernet):
        if not norm.track_running_stats:
            setattr(norm, _FRESH, True)
            norm.track_running_stats = True
            norm.running_mean = torch.zeros(norm.num_features, device=_device(inner))
            norm.running_var = torch.ones(norm.num_features, device=_device(inner))
            norm.num_batches_tracked = torch.tensor(0, device=_device(inner))
    return inner


@torch.no_grad()
def calibrate(model: Any, batches: Iterable[Any]) -> None:
    """Replaces a model's batch-norm statistics by those of some images, averaged over the batches.

    Args:
        model: The model; it is in eval mode afterwards. Norms that it keeps in eval mode while it is trained keep their
            statistics, those that `subnet` gave some without measuring them excepted.
        batches: Batches of a training loader; in several processes each has its own, and statistics are averaged.

    Raises:
        ValueError: There is no batch.
    """
    model.train()
    norms = [norm for norm in _norms(model) if norm.training or getattr(norm, _FRESH, False)]
    rest_dropouts(model)
    count = 0
    with averaged_statistics(norms):
        for batch in batches:
            model._run_forward(model.data_preprocessor(batch, training=True), mode='loss')
            count += 1
    for norm in norms:
        for moment in (norm.running_mean, norm.running_var):
            all_reduce(moment, 'mean')
    model.eval()
    if not count:
        raise ValueError('calibrate needs at least one batch of images, got none')


def held_out_view(half: DatasetView, pipeline: Any, images: int | None = None, scope: str | None = None) -> DatasetView:
    """The images of a half as a validation reads them.

    Args:
        half: The half, of the training images.
        pipeline: Transforms of the validation, a list of configs.
        images: So many of them, evenly over the half, since data sets are sorted; ``None`` takes all. One that the data
            set repeats is read once.
        scope: Where transforms are looked for first; ``None`` for the default scope.
    """
    transforms = build_pipelines({'arch': list(pipeline)}, scope)['arch']
    indices = half.distinct()
    if images is not None and images < len(indices):
        indices = indices[np.arange(images) * len(indices) // images]
    return DatasetView(half.dataset, indices, half.seed, transforms)


def validate(model: Any, runner: Any, view: DatasetView, evaluator: Any) -> dict[str, float]:
    """Measures a model as the config's validation does, on other images.

    Args:
        model: The model, in eval mode.
        runner: The runner, for its loaders.
        view: The images.
        evaluator: Config of the validation's metrics. One that reads its ground truth from a file of annotations is
            given that of the images' own dataset, and looks at these images alone.

    Returns:
        Numbers by name, as MMEngine reports them; what is NaN, infinite or not defined is left out.
    """
    cfg = {key: value for key, value in (runner.cfg.get('val_dataloader') or {}).items() if key != 'dataset'}
    cfg.update(dataset=view, sampler=dict(type='DefaultSampler', shuffle=False), persistent_workers=False)
    loader = runner.build_dataloader(cfg, seed=0)
    with torch.no_grad(), redirect_stdout(StringIO()):  # COCO's reader prints, into progress bars
        built = evaluator_of(view, evaluator)
        for batch in loader:
            built.process(data_samples=model.val_step(batch), data_batch=batch)
        found = built.evaluate(len(view))
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def evaluator_of(view: DatasetView, evaluator: Any) -> Evaluator:
    """Builds the metrics of a validation on a view; those that read a file of annotations look at its images alone.

    Args:
        view: The images.
        evaluator: Config of the metrics, one or a list.
    """
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    built = Evaluator([_build_metric(each, view) for each in metrics])
    built.dataset_meta = view.metainfo
    return built


def _build_metric(cfg: Mapping[str, Any], view: DatasetView) -> Any:
    files = {getattr(leaf, 'ann_file', '') for leaf in view.leaves()}
    given = dict(cfg)
    if 'ann_file' in given:
        if len(files) != 1:
            raise ValueError(f'val_evaluator with an ann_file needs training images of one file, got {len(files)}')
        given['ann_file'] = files.pop()
    metric = METRICS.build(given)
    if hasattr(metric, 'img_ids'):
        # else images that are not looked at would count as missed
        metric.img_ids = [view.get_data_info(index)['img_id'] for index in range(len(view))]
    return metric


def _norms(module: nn.Module) -> list[Any]:
    return [each for each in module.modules() if isinstance(each, _BatchNorm)]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _is_number(value: Any) -> bool:
    # MMSegmentation's are NumPy's single precision; -1 is COCO's word for "nothing of this size"
    return isinstance(value, Real) and math.isfinite(value) and value != -1
