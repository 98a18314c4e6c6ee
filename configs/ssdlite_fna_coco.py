# The network that FNA published for SSDLite, trained with its recipe: the seed's weights remapped onto it.
# Paper: Fang et al., ICLR 2020, table 2.
#
#   bash tools/dist_train.sh configs/ssdlite_fna_coco.py 8
#
# Cost, published: 15 GPU-days. Expected, published: 23.3 mAP, 0.9 B multiply-adds, 4.6 M parameters; counted here at
# 320x320: 880,333,504 and 4,630,316.
# Measured here on COCO train2017: not yet.
_base_ = './_base_/fna_ssdlite.py'

model = dict(
    backbone=dict(type='mmnas_ext.FNA_SSDLite', norm_cfg=dict(type='SyncBN')),
    neck=_base_.norms.neck,
    bbox_head=_base_.norms.bbox_head,
)
train_cfg = _base_.recipe.train_cfg
train_dataloader = _base_.recipe.train_dataloader
optim_wrapper = dict(_delete_=True, **_base_.recipe.optim_wrapper)
param_scheduler = _base_.recipe.param_scheduler
auto_scale_lr = _base_.recipe.auto_scale_lr
custom_hooks = _base_.recipe.custom_hooks
