# FNA inside RetinaNet on photographs of steel: 1440 images of 200x200, 6 kinds of defect, seed MobileNetV2.
# Method: Fang et al., ICLR 2020. Data: NEU-DET, its boxes in COCO's layout (data/steel/{train,val,annotations}).
#
#   python tools/train.py configs/fna_retinanet_mbv2_steel.py
#
# Cost and measured metric: docs/benchmarks.md. There is no published number for this seed and data.
# It is written for one process of 8 images, on a CPU or one GPU. On a GPU more workers keep it busy:
#
#   python tools/train.py configs/fna_retinanet_mbv2_steel.py --amp \
#       --cfg-options train_dataloader.num_workers=4 derived.train_dataloader.num_workers=4
_base_ = './_base_/fna_retinanet_few_images.py'

data_root = 'data/steel/'
classes = ('crazing', 'inclusion', 'patches', 'pitted_surface', 'rolled-in_scale', 'scratches')
scale = (224, 224)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # a defect has no upper side
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_data = dict(
    data_root=data_root, ann_file='annotations/train.json', data_prefix=dict(img='train/'), pipeline=train_pipeline
)
val_data = dict(
    data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='val/'), pipeline=test_pipeline
)

model = dict(backbone=dict(input_size=scale))
train_dataloader = dict(batch_size=8, num_workers=1, dataset=train_data)
val_dataloader = dict(batch_size=8, num_workers=1, persistent_workers=False, dataset=val_data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(cost=dict(target='seed'))  # the seed's own multiply-adds, 279.4 M
derived = dict(train_dataloader=dict(batch_size=8))
