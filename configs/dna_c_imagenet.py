# DNA-c, trained on ImageNet from scratch and without the teacher. Paper: Li et al., "Blockwisely Supervised Neural
# Architecture Search with Knowledge Distillation", CVPR 2020.
#
#   bash tools/dist_train.sh configs/dna_c_imagenet.py 8
#
# Cost: 500 epochs of ImageNet at 224 px; the authors name no GPU time. Expected, published: 77.8 top-1, 466 M
# multiply-adds (convolutions and classifier alone: 450,138,976), 5.3 M parameters (5,273,896).
# 77.8 was trained with batches of 4096 and lr 0.256: configs/dna_c_imagenet_4096.py. This is the authors' script, 8
# GPUs x 128 with lr 0.064, which gave 77.2. Measured here on ImageNet: not yet.
_base_ = './_base_/dna_imagenet_retrain.py'

model = dict(backbone=dict(type='mmnas_ext.DNA_c'))
