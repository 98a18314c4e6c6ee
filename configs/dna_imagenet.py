# DNA on ImageNet: distil the blocks of a super-network from EfficientNet-B7, rate all paths, find the best network
# under a limit, train it from scratch.
# Paper: Li et al., "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation", CVPR 2020.
#
#   bash tools/dist_train.sh configs/dna_imagenet.py 8
#   python tools/train.py configs/dna_imagenet.py               (one GPU: auto_scale_lr follows the batch)
#
# Blocks on several machines: model.blocks=[0,1] on one, [2,3] on another; or model.block_parallel=True on one with
# several GPUs. Cost: 20 epochs of distillation, then 500 of training. Expected, published: 77.1 to 78.4 top-1 at 348 to
# 611 M multiply-adds by the paper's count (DNA-a to DNA-d). Measured here on ImageNet: not yet.
_base_ = './_base_/dna.py'

# --- 1. teacher and student: blocks end where the teacher's stages end, with adapters where the widths differ
model = dict(teacher=dict(timm='tf_efficientnet_b7', pretrained=True), space='dna', input_size=(224, 224))
data = dict(data_root='data/imagenet/', sources='train', held_out=0.004)  # 5 K of its images are held out
train_dataloader = dict(batch_size=128, dataset=dict(part='train', **data))
val_dataloader = dict(dataset=dict(part='held_out', **data))

# --- 2. distil: all blocks in each iteration, one drawn path each; 20 epochs of 8 x 128 images
epoch = 1246
train_cfg = dict(type='mmnas_ext.DistillLoop', max_iters=20 * epoch)
optim_wrapper = dict(
    constructor='mmnas_ext.BlockOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=2e-3),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [  # for every block; dict(block0=[…], …) sets one per block
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=500),
    dict(type='StepLR', step_size=epoch, gamma=0.9, by_epoch=False, begin=0, end=20 * epoch),
]
auto_scale_lr = dict(enable=True, base_batch_size=1024)

# --- 3. rate every path, find the front, choose: DNA-a's multiply-adds, by our count
val_cfg = dict(type='mmnas_ext.RatingLoop', calibration_batches=8, max_memory=8.0, limits=dict(macs=3.13e8))

# --- 4. train the found network as DNA-a is trained
derived = dict(config='dna_a_imagenet.py')
