# The embedded default for DNA: distils EfficientNet-Lite0 on small generated images, rates every path, finds the best
# network under a limit and trains it inside DeepLabv3 as the FNA demo does.
# Method: Li et al., CVPR 2020. `make demo-dna` makes the images, runs this config, trains the teacher's own network too
# and compares. If the images exist (python tools/make_shapes.py --task seg --root data/shapes_seg):
#
#   python tools/train.py configs/demo_dna.py
#
# Cost: minutes on two CPU cores. Measured: docs/demos.md. There is no published number.
_base_ = './dna_lite0_128.py'

candidates = ['k3_e3', 'k3_e6', 'k5_e3', 'k5_e6']
small_space = dict(
    _delete_=True,
    stem_channels=32,
    stages=[
        dict(stride=1, channels=[16], depths=[1], candidates=['k3_e1']),
        dict(stride=2, channels=[24], depths=[1, 2], candidates=candidates),
        dict(stride=2, channels=[40], depths=[1, 2], candidates=candidates),
        dict(stride=2, channels=[80], depths=[2, 3], candidates=candidates),
        dict(stride=1, channels=[112], depths=[2, 3], candidates=candidates),
        dict(stride=2, channels=[192], depths=[2, 3], candidates=candidates),
        dict(stride=1, channels=[320], depths=[1], candidates=candidates),
    ],
    head_channels=1280,
    bn_eps=1e-3,
)
model = dict(space=small_space)
images = dict(data_root='data/shapes_seg/')
train_dataloader = dict(num_workers=0, dataset=dict(sources='leftImg8bit/train', **images))
val_dataloader = dict(batch_size=32, dataset=dict(sources='leftImg8bit/val', **images))
train_cfg = dict(max_iters=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False, begin=20, end=300),
]
default_hooks = dict(checkpoint=dict(interval=100))
custom_hooks = [dict(type='mmnas_ext.ProgressHook', title="distillation: every block learns one of the teacher's")]
val_cfg = dict(calibration_batches=4, limits=dict(macs=9.5e7))  # four fifths of the teacher's 118.8 M
derived = dict(config='demo_fna_deeplabv3.py', weights='remapped')
