# FNA inside ATSS on COCO: the backbone is searched; FPN, head and the choice of positive anchors are MMDetection's.
# Papers: Fang et al., ICLR 2020; Zhang et al., CVPR 2020 (arXiv 1912.02424).
#
#   bash tools/dist_train.sh configs/examples/fna_atss_coco.py 8
#
# Read by the host: strides 8, 16 and 32, of which FPN makes five. Measured here on COCO: not yet. There is no
# published number.
_base_ = './_base_/detector.py'

host = dict(config='mmdet::atss/atss_r50_fpn_1x_coco.py')
