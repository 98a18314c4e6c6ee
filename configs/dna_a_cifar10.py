# DNA-a, fine-tuned on CIFAR-10 at 224 px from its ImageNet weights. Network: Li et al., CVPR 2020.
#
#   python tools/convert_checkpoint.py DNA_a.pth.tar checkpoints/dna_a.pth          (the authors' released file)
#   python tools/train.py configs/dna_a_cifar10.py
#
# Cost: 50 epochs of 50,000 images at 224 px on one GPU. The recipe is ours: none was released for CIFAR.
# Expected, published: no number that we could check. Measured here: not yet.
_base_ = './_base_/dna_imagenet_retrain.py'

# ImageNet's mean and deviation, as in the training of the weights; the data set's images are RGB already
data_preprocessor = dict(num_classes=10, to_rgb=False)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmnas_ext.DNA_a',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dna_a.pth'),
    ),
    head=dict(num_classes=10),
)
to_224 = dict(type='Resize', scale=224, interpolation='bicubic')
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    to_224,
    dict(type='PackInputs'),
]
test_pipeline = [to_224, dict(type='PackInputs')]
cifar = dict(_delete_=True, type='CIFAR10', data_root='data/cifar10')
train_dataloader = dict(batch_size=64, dataset=dict(split='train', pipeline=train_pipeline, **cifar))
val_dataloader = dict(dataset=dict(split='test', pipeline=test_pipeline, **cifar))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=50, T_max=50, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=50)
