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

model = dict(teacher=dict(timm='tf_efficientnet_b3', train_mode=False), sampling='fair')
data = dict(data_root='data/coco/')
train_dataloader = dict(batch_size=64, dataset=dict(sources='train2017', part='all', held_out=0.0, **data))
val_dataloader = dict(dataset=dict(sources='val2017', part='all', held_out=0.0, **data))
train_cfg = dict(max_epochs=10)
# ours: one rate for all blocks, warmed up, down to 0
optim_wrapper = dict(optimizer=dict(lr=2e-3), blocks=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, begin=0, end=10, T_max=10, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)
derived = dict(config='retinanet_dna_a_coco.py', weights='distilled')
