# The embedded default for segmentation: FNA inside DeepLabv3 on small generated images, seed EfficientNet-Lite0.
# Method: Fang et al., ICLR 2020. `make demo-seg` makes the images, runs this config, trains the seed too and compares.
# If the images exist (python tools/make_shapes.py --task seg --root data/shapes_seg):
#
#   python tools/train.py configs/demo_fna_deeplabv3.py
#
# Cost: minutes on two CPU cores. Measured: docs/demos.md. There is no published number.
_base_ = './fna_deeplabv3_lite0_480.py'

classes = (
    'ground', 'fine_stripes', 'coarse_stripes', 'fine_dots', 'coarse_dots', 'outline', 'enclosed', 'bar_same',
    'bar_mixed',
)  # fmt: skip
palette = [
    [90, 90, 90], [230, 60, 60], [240, 160, 40], [60, 160, 230], [40, 60, 200],
    [60, 190, 90], [190, 220, 70], [170, 80, 200], [240, 120, 190],
]  # fmt: skip
shapes = dict(
    type='BaseSegDataset',  # CityscapesDataset has fixed classes
    data_root='data/shapes_seg/',
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    metainfo=dict(palette=palette),
)
size = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]

model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(input_size=(192, 256)),
    # the ground is four fifths of the pixels
    decode_head=dict(channels=96, loss_decode=dict(class_weight=[0.2] + 8 * [1.0])),
)
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(pipeline=train_pipeline, **shapes))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**shapes))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=90, arch_start=30)
optimizer = dict(lr=3e-3)
optim_wrapper = dict(
    weights=dict(optimizer=optimizer),
    arch=dict(optimizer=dict(lr=5e-2)),  # 60 arch steps have to decide
    cost=dict(target=6.674e8),  # the seed's own multiply-adds at this size
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=10),
    dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=10, end=90),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=90))
custom_hooks = [
    dict(type='mmnas_ext.DeriveHook', interval=10),
    dict(type='mmnas_ext.SearchMonitorHook', interval=2),
    dict(type='mmnas_ext.ProgressHook', title='search: weights of drawn paths, then alpha as well'),
]
derived = dict(
    train_cfg=dict(max_iters=250, val_interval=250),
    optim_wrapper=dict(optimizer=optimizer),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=10),
        dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=10, end=250),
    ],
    auto_scale_lr=dict(base_batch_size=8),
    default_hooks=dict(checkpoint=dict(interval=250)),
    custom_hooks=[dict(type='mmnas_ext.ProgressHook', title='adaptation: the remapped network, trained')],
)
