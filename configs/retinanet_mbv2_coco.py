# The seed, MobileNetV2, trained with the recipe of the network found from it: the other side of every comparison.
# Paper: Fang et al., ICLR 2020, table 2.
#
#   bash tools/dist_train.sh configs/retinanet_mbv2_coco.py 8
#
# Expected, published: 32.8 mAP, 133.05 B multiply-adds at 800x1088, 11.49 M parameters.
# Measured here on COCO train2017: not yet.
_base_ = './retinanet_fna_coco.py'

model = dict(backbone=dict(type='mmnas_ext.MobileNetV2MB'))
