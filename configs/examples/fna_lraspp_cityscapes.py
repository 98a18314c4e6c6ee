# FNA inside LR-ASPP on Cityscapes: the backbone is searched; the light head of MobileNetV3 is MMSegmentation's.
# Papers: Fang et al., ICLR 2020; Howard et al., ICCV 2019 (arXiv 1905.02244).
#
#   bash tools/dist_train.sh configs/examples/fna_lraspp_cityscapes.py 4
#
# Read by the host: strides 2 and 4, and the last stage, dilated to stride 8. Measured here on Cityscapes: not yet.
# There is no published number.
_base_ = './_base_/segmentor.py'

host = dict(
    config='mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py',
    strides=(2, 4, 32),
    # MMSegmentation's, of features smaller than its window of 49 as well: images of less than 392 pixels
    decode_head=dict(type='mmnas_ext.LRASPPHead'),
)
output_stride = 8
# what the host's file comes to in MMSegmentation: 160k iterations of 16 crops
auto_scale_lr = dict(base_batch_size=16)
derived = dict(
    train_cfg=dict(max_iters=160000, val_interval=16000),
    param_scheduler=[dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=160000)],
    auto_scale_lr=dict(base_batch_size=16),
    default_hooks=dict(checkpoint=dict(interval=16000)),
)
