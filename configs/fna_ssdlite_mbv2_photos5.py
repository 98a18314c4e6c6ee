# FNA inside SSDLite on photographs of five kinds of things: 526 images at 320 px, seed MobileNetV2.
# Method: Fang et al., ICLR 2020. Data: apple, banana, orange, kangaroo, raccoon, with boxes in COCO's layout
# (data/photos5/{train,val,annotations}).
#
#   python tools/train.py configs/fna_ssdlite_mbv2_photos5.py
#
# Cost: 320 iterations of the search and 780 of the adaptation. There is no published number for this seed and data;
# measured once: docs/benchmarks.md.
# It is written for one process of 8 images, on a CPU or one GPU. On a GPU more workers keep it busy:
#
#   python tools/train.py configs/fna_ssdlite_mbv2_photos5.py --amp \
#       --cfg-options train_dataloader.num_workers=4 derived.train_dataloader.num_workers=4
_base_ = './_base_/fna_ssdlite_few_images.py'

data_root = 'data/photos5/'
classes = ('apple', 'banana', 'orange', 'kangaroo', 'raccoon')
# those of the recipe that a few epochs have a use for
kept = ('LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs')
train_pipeline = [step for step in _base_.train_pipeline if step['type'] in kept]
train_data = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/train.json',
    data_prefix=dict(img='train/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=train_pipeline,
)
val_data = dict(data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='val/'))

train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(_delete_=True, **train_data))
val_dataloader = dict(batch_size=8, num_workers=1, persistent_workers=False, dataset=val_data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(cost=dict(target='seed'))  # the seed's own multiply-adds
derived = dict(train_dataloader=dict(batch_size=8))
