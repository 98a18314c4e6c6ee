"""A distillation of a second: a random teacher of three stages, a space of eight paths, sixteen small images."""

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config

from mmnas_ext.registry import MODELS

SIZE = (32, 32)
TEACHER = '[[8, 8], ["k3_e1"], 1]|[[8, 12], ["k3_e3", "k5_e3"], 2]|[[12, 16], ["k3_e3"], 2]'
CANDIDATES = ['k3_e3', 'k5_e6']
SPACE = dict(
    stem_channels=8,
    stages=[
        dict(stride=1, channels=[8], depths=[1], candidates=['k3_e1']),
        dict(stride=2, channels=[12], depths=[1, 2], candidates=CANDIDATES),
        dict(stride=2, channels=[16], depths=[1], candidates=CANDIDATES),
    ],
)
PATHS = (2 + 4, 2)  # of the two blocks: the first stage joins the second


def make_images(root: Path) -> None:
    """Sixteen images of smooth random colours, twelve to train on and four held out."""
    rng = np.random.RandomState(0)
    for number in range(16):
        folder = root / ('train' if number < 12 else 'val') / f'class_{number % 3}'
        folder.mkdir(parents=True, exist_ok=True)
        small = rng.randint(256, size=(6, 6, 3), dtype=np.uint8)
        mmcv.imwrite(mmcv.imresize(small, (48, 40)), str(folder / f'{number:02d}.png'))


def teacher_file(folder: Path) -> str:
    """A random teacher's weights, in which every feature varies."""
    file = folder / 'teacher.pth'
    if file.exists():  # made before processes share it
        return str(file)
    torch.manual_seed(3)
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=TEACHER, out_indices=(2,)))
    net.init_weights()
    torch.save(net.state_dict(), file)
    return str(file)


def config(folder: Path, max_iters: int = 8, **changes: Any) -> Config:
    """The distillation of a folder's ``images`` into its ``work``."""
    images = folder / 'images'
    if not images.exists():
        make_images(images)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE)]
    pack = dict(type='mmnas_ext.PackImages')
    (folder / 'distill.py').touch()  # what `derived.config` is relative to
    dataset = dict(type='mmnas_ext.UnlabelledImages', data_root=str(images))
    loader = dict(num_workers=0, persistent_workers=False)
    cfg = Config(
        dict(
            default_scope='mmengine',
            work_dir=str(folder / 'work'),
            launcher='none',
            log_level='WARNING',
            randomness=dict(seed=5),
            model=dict(
                type='mmnas_ext.BlockDistiller',
                teacher=dict(
                    backbone=dict(type='mmnas_ext.MBNet', arch=TEACHER, out_indices=(2,)),
                    checkpoint=teacher_file(folder),
                ),
                space=SPACE,
                input_size=SIZE,
                data_preprocessor=dict(type='ImgDataPreprocessor', mean=[127.0] * 3, std=[128.0] * 3),
            ),
            train_dataloader=dict(
                batch_size=4,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(sources='train', pipeline=[*pipeline, dict(type='RandomFlip', prob=0.5), pack], **dataset),
                **loader,
            ),
            val_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(sources='val', pipeline=[*pipeline, pack], **dataset),
                **loader,
            ),
            val_evaluator=dict(),
            train_cfg=dict(type='mmnas_ext.DistillLoop', max_iters=max_iters, calibration_batches=3),
            val_cfg=dict(type='mmnas_ext.RatingLoop', calibration_batches=2),
            optim_wrapper=dict(
                constructor='mmnas_ext.BlockOptimWrapperConstructor',
                optimizer=dict(type='AdamW', lr=1e-2),
                clip_grad=dict(max_norm=5),
            ),
            param_scheduler=[dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False, begin=0, end=max_iters)],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=2),
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=3),
            ),
            vis_backends=[dict(type='LocalVisBackend')],
            visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
            log_processor=dict(by_epoch=False),
        ),
        filename=str(folder / 'distill.py'),
        format_python_code=False,  # MMEngine formats it for every checkpoint, longer than training takes here
    )
    cfg.merge_from_dict(changes)
    return cfg
