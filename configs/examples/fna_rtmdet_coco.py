# FNA inside RTMDet on COCO at 640 px: the backbone is searched; neck, head and training are those of RTMDet-tiny.
# Papers: Fang et al., ICLR 2020; Lyu et al., 2022 (arXiv 2212.07784).
#
#   bash tools/dist_train.sh configs/examples/fna_rtmdet_coco.py 8
#
# Read by the host: strides 8, 16 and 32. Measured here on COCO: not yet. There is no published number.
# The adaptation is the host's, mosaics, moving average and last 20 epochs without mosaics included. The search is
# without mosaics and average from the beginning: candidates are compared on images as they are.
_base_ = './_base_/detector.py'

host = dict(config='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
scale, grey, epochs, plain_epochs = (640, 640), dict(img=(114, 114, 114)), 300, 20
load = [dict(type='LoadImageFromFile', backend_args=None), dict(type='LoadAnnotations', with_bbox=True)]
crop = [
    dict(type='RandomCrop', crop_size=scale),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=scale, pad_val=grey),
]
plain_pipeline = [
    *load,
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    *crop,
    dict(type='PackDetInputs'),
]
mosaic_pipeline = [
    *load,
    dict(type='CachedMosaic', img_scale=scale, pad_val=114.0, max_cached_images=20, random_pop=False),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0), keep_ratio=True),
    *crop,
    dict(
        type='CachedMixUp', img_scale=scale, ratio_range=(1.0, 1.0), max_cached_images=10, random_pop=False,
        pad_val=(114, 114, 114), prob=0.5,
    ),
    dict(type='PackDetInputs'),
]  # fmt: skip
test_pipeline = [
    load[0],
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='Pad', size=scale, pad_val=grey),
    load[1],
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

model = dict(backbone=dict(input_size=scale))
train_cfg = dict(pipelines=None)  # both halves are augmented
train_dataloader = dict(batch_size=32, batch_sampler=None, dataset=dict(pipeline=plain_pipeline))
val_dataloader = dict(batch_size=5, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator
theirs = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.004, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
optim_wrapper = dict(weights=theirs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=14, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=256)
derived = dict(
    train_cfg=dict(max_epochs=epochs, val_interval=10, dynamic_intervals=[(epochs - plain_epochs, 1)]),
    train_dataloader=dict(batch_size=32, dataset=dict(pipeline=mosaic_pipeline)),
    optim_wrapper=theirs,
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
        dict(
            type='CosineAnnealingLR', eta_min=0.0002, begin=epochs // 2, end=epochs, T_max=epochs // 2, by_epoch=True,
            convert_to_iter_based=True,
        ),
    ],
    auto_scale_lr=dict(base_batch_size=256),
    default_hooks=dict(checkpoint=dict(interval=10, max_keep_ckpts=3)),
    custom_hooks=[
        dict(type='mmnas_ext.ReseedHook'),
        dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
        dict(type='PipelineSwitchHook', switch_epoch=epochs - plain_epochs, switch_pipeline=plain_pipeline),
    ],
)  # fmt: skip
