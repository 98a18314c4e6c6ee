# DNA on your own unlabelled images, here COCO's: a backbone is distilled on the target domain, then used in RetinaNet
# with its distilled weights; no ImageNet stage.
# Method: Li et al., CVPR 2020; the use on a target domain is ours.
#
#   python tools/train.py configs/dna_coco.py
#
# Other images: any folders or lists in train_dataloader.dataset.sources. Another use: derived.config, e.g.
# deeplabv3_dna_a_cityscapes.py. Cost: 10 epochs of distillation on one GPU, then RetinaNet's 12. There is no published
# number. Measured here on COCO: not yet; on few images with a small teacher: dna_lite0_128.py.
_base_ = './dna_imagenet.py'

candidates = [f'k{kernel}_e{expansion}_se0.25' for kernel in (3, 5, 7) for expansion in (3, 6)]
model = dict(
    # in eval mode: an image has the same features in every batch, in training and in the rating
    teacher=dict(timm='tf_efficientnet_b3', train_mode=False),
    sampling='fair',
    # the space 'dna' with one width a stage: every network of it has distilled weights
    space=dict(
        _delete_=True,
        stem_channels=32,
        stages=[
            dict(stride=1, channels=[16], depths=[1], candidates=['k3_e1_se0.25']),
            dict(stride=2, channels=[24], depths=[2, 3], candidates=candidates),
            dict(stride=2, channels=[40], depths=[3, 4], candidates=candidates),
            dict(stride=2, channels=[80], depths=[4], candidates=candidates),
            dict(stride=1, channels=[112], depths=[4], candidates=candidates),
            dict(stride=2, channels=[192], depths=[4, 5], candidates=candidates),
            dict(stride=1, channels=[320], depths=[1], candidates=candidates),
        ],
        head_channels=1280,
        act='swish',
    ),
)
images = dict(data_root='data/coco/')
train_dataloader = dict(batch_size=64, dataset=dict(sources='train2017', part='all', held_out=0.0, **images))
val_dataloader = dict(dataset=dict(sources='val2017', part='all', held_out=0.0, **images))
train_cfg = dict(max_epochs=10)
# ours: one rate for all blocks, warmed up, down to 0
optim_wrapper = dict(optimizer=dict(lr=2e-3), blocks=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=0, end=10, T_max=10, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)
derived = dict(config='retinanet_dna_a_coco.py', weights='distilled')
