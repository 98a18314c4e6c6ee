# The two methods combined: DNA-a, found without a task, is the seed that FNA adapts inside RetinaNet on COCO.
# Papers: Li et al., CVPR 2020; Fang et al., ICLR 2020.
#
#   python tools/convert_checkpoint.py DNA_a.pth.tar checkpoints/dna_a.pth          (the authors' released file)
#   bash tools/dist_train.sh configs/fna_retinanet_dna_a_coco.py 8
#
# Cost: that of configs/fna_retinanet_coco.py, which has the same recipe, plus squeeze-excite. There is no published
# number for this seed. Measured here on COCO train2017: not yet.
_base_ = './fna_retinanet_coco.py'

model = dict(
    backbone=dict(
        space='dna_a_det',
        # swish and the gates of squeeze-excite depend on the scale and shift of the norms before them: without these
        # the seed's gates would be random until the search has learned them again
        affine=True,
        init_cfg=dict(seed=dict(arch='dna_a', checkpoint='checkpoints/dna_a.pth')),
    ),
    neck=dict(in_channels=[24, 40, 96, 320]),
)
