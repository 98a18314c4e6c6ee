# FNA inside Faster R-CNN on COCO: the backbone is searched; FPN, proposals and box head are MMDetection's.
# Papers: Fang et al., ICLR 2020; Ren et al., NeurIPS 2015 (arXiv 1506.01497).
#
#   bash tools/dist_train.sh configs/examples/fna_faster_rcnn_coco.py 8
#
# Read by the host: strides 4, 8, 16 and 32. Measured here on COCO: not yet. There is no published number.
_base_ = './_base_/detector.py'

host = dict(config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
optimizer = dict(lr=0.02)  # the host's
optim_wrapper = dict(weights=dict(optimizer=optimizer))
derived = dict(optim_wrapper=dict(optimizer=optimizer))
