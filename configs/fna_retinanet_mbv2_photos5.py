# FNA inside RetinaNet on photographs of five kinds of things: 526 images at 320 px, seed MobileNetV2.
# Method: Fang et al., ICLR 2020. Data: apple, banana, orange, kangaroo, raccoon, with boxes in COCO's layout
# (data/photos5/{train,val,annotations}).
#
#   python tools/train.py configs/fna_retinanet_mbv2_photos5.py
#
# Cost and measured metric: docs/benchmarks.md. There is no published number for this seed and data.
# It is written for one process of 4 images, on a CPU or one GPU. On a GPU more workers keep it busy:
#
#   python tools/train.py configs/fna_retinanet_mbv2_photos5.py --amp \
#       --cfg-options train_dataloader.num_workers=4 derived.train_dataloader.num_workers=4
_base_ = './fna_retinanet_mbv2_steel.py'

data_root = 'data/photos5/'
classes = ('apple', 'banana', 'orange', 'kangaroo', 'raccoon')
scale = (320, 320)
# those of the steel, at this size, and flipped to one side only
exchanged = dict(Resize=dict(type='Resize', scale=scale, keep_ratio=True), RandomFlip=dict(type='RandomFlip', prob=0.5))
train_pipeline = [exchanged.get(step['type'], step) for step in _base_.train_pipeline]
test_pipeline = [exchanged.get(step['type'], step) for step in _base_.test_pipeline]

model = dict(backbone=dict(input_size=scale))
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(cost=dict(target='seed'))  # the seed's own multiply-adds, 570.3 M
# 4 images a step: at the steel's rate one network ends between 35 and 45 mAP, at this one between 48 and 53
derived = dict(
    train_dataloader=dict(batch_size=4),
    optim_wrapper=dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=5)),
)
