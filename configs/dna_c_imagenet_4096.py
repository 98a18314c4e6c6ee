# DNA-c, trained on ImageNet from scratch with batches of 4096 images and lr 0.256, as published.
# Paper: Li et al., "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation", CVPR 2020.
#
#   bash tools/dist_train.sh configs/dna_c_imagenet_4096.py 8
#
# The others: --cfg-options model.backbone.type=mmnas_ext.DNA_a (DNA_b, DNA_d).
# An update gathers 4 batches of 8 x 128. Batch norms see 128 images each, as on 32 GPUs, and move with each of the 4.
# Cost: 500 epochs of ImageNet at 224 px; the authors name no GPU time. Expected, published: 77.8 top-1.
# Measured here on ImageNet: not yet.
_base_ = './_base_/dna_imagenet_4096.py'

model = dict(backbone=dict(type='mmnas_ext.DNA_c'))
