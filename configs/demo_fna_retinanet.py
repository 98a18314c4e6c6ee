# The embedded default: FNA inside RetinaNet on small generated images, seed EfficientNet-Lite0 from a package.
# Method: Fang et al., ICLR 2020. `make demo` makes the images, runs this config, trains the seed too and compares.
# If the images exist (python tools/make_shapes.py --task det --root data/shapes_det):
#
#   python tools/train.py configs/demo_fna_retinanet.py
#
# Cost: minutes on two CPU cores. Measured: docs/demos.md. There is no published number.
_base_ = './fna_retinanet_lite0_320.py'

classes = (
    'fine_stripes', 'coarse_stripes', 'fine_dots', 'coarse_dots', 'ring', 'frame', 'bar_same', 'bar_mixed'
)  # fmt: skip
shapes = dict(data_root='data/shapes_det/')
size = (144, 192)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(192, 144), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(192, 144), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

model = dict(backbone=dict(input_size=size))
train_dataloader = dict(num_workers=0, dataset=dict(pipeline=train_pipeline, **shapes))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(pipeline=test_pipeline, **shapes))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/shapes_det/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=9, arch_start=3)
optim_wrapper = dict(
    arch=dict(optimizer=dict(lr=5e-2)),  # for the figure of alpha: losses decide
    cost=dict(target=1.656e8),  # four fifths of the seed's multiply-adds at this size
    selection=dict(type='measured', first=2, front=dict(networks=6, images=None)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=20),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=9, milestones=[8], gamma=0.1),
]
custom_hooks = [
    dict(type='mmnas_ext.DeriveHook'),
    dict(type='mmnas_ext.SearchMonitorHook', interval=2),
    dict(type='mmnas_ext.ProgressHook', title='search: weights of drawn paths, then alpha as well'),
]
default_hooks = dict(logger=dict(interval=10))
derived = dict(
    train_dataloader=dict(num_workers=0),
    train_cfg=dict(max_epochs=6, val_interval=6),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=20),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=6, milestones=[5], gamma=0.1),
    ],
    custom_hooks=[
        dict(type='mmnas_ext.ReseedHook'),
        dict(type='mmnas_ext.ProgressHook', title='adaptation: the remapped network, trained'),
    ],
)
