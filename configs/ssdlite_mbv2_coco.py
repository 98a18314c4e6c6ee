# The seed, MobileNetV2, trained with the recipe of the network found from it: the other side of every comparison.
# Paper: Fang et al., ICLR 2020, table 2.
#
#   bash tools/dist_train.sh configs/ssdlite_mbv2_coco.py 8
#
# Expected, published: 22.1 mAP, 0.8 B multiply-adds, 4.3 M parameters; counted here at 320x320: 808,218,304 and
# 4,322,988.
# Measured here on COCO train2017: not yet.
_base_ = './ssdlite_fna_coco.py'

model = dict(backbone=dict(type='mmnas_ext.MobileNetV2MB'))
