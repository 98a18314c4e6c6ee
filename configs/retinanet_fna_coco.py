# The network that FNA published for RetinaNet, trained with its recipe: the seed's weights remapped onto it.
# Paper: Fang et al., ICLR 2020, table 2.
#
#   bash tools/dist_train.sh configs/retinanet_fna_coco.py 8
#
# Cost, published: 3.2 GPU-days. Expected, published: 33.9 mAP, 133.03 B multiply-adds at 800x1088, 11.73 M parameters.
# Measured here on COCO train2017: not yet.
_base_ = './_base_/fna_retinanet.py'

model = dict(backbone=dict(type='mmnas_ext.FNA_RetinaNet', norm_cfg=dict(type='SyncBN')))
train_cfg = _base_.recipe.train_cfg
train_dataloader = _base_.recipe.train_dataloader
optim_wrapper = _base_.recipe.optim_wrapper
param_scheduler = _base_.recipe.param_scheduler
auto_scale_lr = _base_.recipe.auto_scale_lr
custom_hooks = _base_.recipe.custom_hooks
