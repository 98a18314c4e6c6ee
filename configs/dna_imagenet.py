# DNA on ImageNet: distil the blocks of a super-network from EfficientNet-B7, rate all paths, find the best network
# under a limit, train it from scratch.
# Paper: Li et al., "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation", CVPR 2020.
#
#   bash tools/dist_train.sh configs/dna_imagenet.py 8
#   python tools/train.py configs/dna_imagenet.py   (one GPU: the same epochs, learning rates scaled to the batch)
#
# Blocks on several machines: model.blocks=[0,1] on one, [2,3] on another; or model.block_parallel=True on one with
# several GPUs. The authors train one block after the other, here all of them learn in each iteration; what else differs
# from their recipe: docs/fidelity.md. Cost: 20 epochs of distillation, then 500 of training. Expected, published: 77.1
# to 78.4 top-1 at 348 to 611 M multiply-adds by the paper's count (DNA-a to DNA-d). Measured here on ImageNet: not yet.
_base_ = './_base_/dna.py'

# --- 1. teacher and student: blocks end where the teacher's stages end, with adapters where the widths differ
model = dict(
    # as the authors: its batch norms follow the batch while blocks learn, and are measured anew before rating
    teacher=dict(timm='tf_efficientnet_b7', pretrained=True, train_mode=True),
    space='dna',
    input_size=(224, 224),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmpretrain.ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    # timm's: up to a third of the image, in the mean colour, BGR
    dict(
        type='mmpretrain.RandomErasing',
        erase_prob=0.5,
        max_area_ratio=1 / 3,
        aspect_range=(0.3, 1 / 0.3),
        fill_color=(103.53, 116.28, 123.675),
    ),
    dict(type='mmnas_ext.PackImages'),
]
images = dict(data_root='data/imagenet/', sources='train', held_out=0.004)  # 5 K of its images are held out
train_dataloader = dict(batch_size=64, dataset=dict(part='train', pipeline=train_pipeline, **images))
val_dataloader = dict(dataset=dict(part='held_out', **images))

# --- 2. distil: all blocks in each iteration, one drawn path each; 20 epochs of 8 x 64 images
train_cfg = dict(type='mmnas_ext.DistillLoop', max_epochs=20)
optim_wrapper = dict(
    constructor='mmnas_ext.BlockOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=5e-3, weight_decay=1e-4),
    paramwise_cfg=dict(flat_decay_mult=0),  # norms and biases are not decayed
    blocks={'0': dict(optimizer=dict(lr=2e-3)), '5': dict(optimizer=dict(lr=2e-3))},
)
param_scheduler = [  # for every block; dict(block0=[…], …) sets one per block
    dict(type='StepLR', step_size=1, gamma=0.9, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=512)

# --- 3. rate every path, find the front, choose: no more than DNA-a's multiply-adds, by our count
val_cfg = dict(type='mmnas_ext.RatingLoop', calibration_batches=8, max_memory=8.0, limits=dict(macs=313791328))

# --- 4. train the found network as DNA-a is trained
derived = dict(config='dna_a_imagenet.py')
