# DNA-b, trained on ImageNet from scratch and without the teacher. Paper: Li et al., "Blockwisely Supervised Neural
# Architecture Search with Knowledge Distillation", CVPR 2020.
#
#   bash tools/dist_train.sh configs/dna_b_imagenet.py 8
#
# Cost: 500 epochs of ImageNet at 224 px; the authors name no GPU time. Expected, published: 77.5 top-1, 394 M
# multiply-adds (convolutions and classifier alone: 392,492,032), 4.9 M parameters (4,918,180).
# The published figure was trained with batches of 4096 and lr 0.256. This is the authors' script, 8 GPUs x 128 with lr
# 0.064, which gave DNA-c 77.2 instead of 77.8: configs/dna_c_imagenet_4096.py has the larger batch.
# Measured here on ImageNet: not yet.
_base_ = './_base_/dna_imagenet_retrain.py'

model = dict(backbone=dict(type='mmnas_ext.DNA_b'))
