"""Which checkpoint a run goes on from: where its hook wrote them, whole to the bit, and its own."""

import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.runs.checkpoints import STAMP, Places, checkpoint_places, find_checkpoint, inspect


def save(path, number, by_epoch=True, part='me', **content):
    """A checkpoint as MMEngine's runner writes one: five iterations an epoch."""
    counts = {'epoch': number, 'iter': 5 * number} if by_epoch else {'epoch': 0, 'iter': number}
    whole = {'meta': {**counts, STAMP: part}, 'state_dict': {'weight': torch.arange(5000.0)}, 'optimizer': {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**whole, **content}, path)
    return path


def place_of_weight(path):
    """Offset in the file, and length, of the weight's own bytes."""
    with zipfile.ZipFile(path) as archive:
        (entry,) = (info for info in archive.infolist() if info.filename.endswith('data/0'))
    content = path.read_bytes()
    return content.index(torch.arange(5000.0).numpy().tobytes()), entry.file_size


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert find_checkpoint(tmp_path) == (None, 0, ())
    for number in (1, 2, 10, 11):
        save(tmp_path / f'epoch_{number}.pth', number)
    for name in ('epoch_final.pth', 'other.pth'):
        torch.save({}, tmp_path / name)
    whole = (tmp_path / 'epoch_11.pth').read_bytes()
    for kept, wanted in ((len(whole), 11), (len(whole) - 1, 10), (len(whole) // 2, 10), (0, 10)):
        (tmp_path / 'epoch_11.pth').write_bytes(whole[:kept])
        found = find_checkpoint(tmp_path)
        assert (found.path, found.iteration) == (tmp_path / f'epoch_{wanted}.pth', 5 * wanted)
        assert [path.name for path, _ in found.refused] == ['epoch_11.pth'] * (wanted == 10)


def zero_a_page(content, start):
    return content[: start + 4096] + bytes(4096) + content[start + 8192 :]


def flip_a_bit(content, start):
    return content[: start + 700] + bytes([content[start + 700] ^ 1]) + content[start + 701 :]


@pytest.mark.parametrize('damage', [zero_a_page, flip_a_bit])
def test_damage_inside_a_file_is_seen_and_the_one_before_taken(tmp_path, damage):
    save(tmp_path / 'epoch_1.pth', 1)
    path = save(tmp_path / 'epoch_2.pth', 2)
    start, size = place_of_weight(path)
    assert size == 20000
    path.write_bytes(damage(path.read_bytes(), start))
    found = find_checkpoint(tmp_path)
    assert found.path == tmp_path / 'epoch_1.pth'
    ((refused, reason),) = found.refused
    assert refused == path
    assert 'the checksum of its entry' in reason


@pytest.mark.parametrize(('content', 'reason'), [
    ({'meta': {'epoch': 3, 'iter': 15, STAMP: 'me'}}, 'its name says 2, its content 3'),
    ({'meta': {'epoch': 2, 'iter': 10, STAMP: 'other'}}, 'another run has written it'),
    ({'meta': {'epoch': 2, 'iter': 10}}, 'another run has written it'),
    ({'meta': {'epoch': 2}}, 'it holds no state of a training'),
    ({'meta': None}, 'it holds no state of a training'),
])  # fmt: skip
def test_metadata_that_does_not_fit_is_refused(tmp_path, content, reason):
    path = save(tmp_path / 'epoch_2.pth', 2, **content)
    assert reason in inspect(path, 2, True, 'me')[1]


def test_a_checkpoint_without_its_optimizer_is_none_to_go_on_from(tmp_path):
    path = tmp_path / 'iter_4.pth'
    torch.save({'meta': {'iter': 4, 'epoch': 0, STAMP: 'me'}, 'state_dict': {}}, path)
    assert 'save_optimizer=False' in inspect(path, 4, False, 'me')[1]
    assert inspect(path, 4, False, None) == (4, '')  # to be tested, it will do


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'PK\x03\x04 and nothing else')
    assert 'truncated or damaged' in inspect(path, 1, True, None)[1]
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.txt', 'b')
    assert 'it cannot be read' in inspect(path, 1, True, None)[1]


class Unknown:
    """What a hook of the user's may leave in a checkpoint."""

    def __init__(self):
        self.value = 1


def test_foreign_objects_in_a_checkpoint_are_not_run_and_do_no_harm(tmp_path):
    path = save(tmp_path / 'epoch_2.pth', 2, message_hub={'mine': Unknown(), 'place': Path('x')})
    assert inspect(path, 2, True, 'me') == (10, '')


def config(tmp_path, **hook):
    return Config({'work_dir': str(tmp_path / 'runs' / 'mine'), 'default_hooks': {'checkpoint': hook}})


def test_checkpoints_are_looked_for_where_the_hook_writes_them(tmp_path):
    work_dir, out = tmp_path / 'runs' / 'mine', tmp_path / 'big'
    cases = [
        ({}, work_dir, 'epoch_3.pth', True),
        ({'by_epoch': False}, work_dir, 'iter_3.pth', False),
        ({'by_epoch': False, 'out_dir': str(out)}, out / 'mine', 'iter_3.pth', False),
        ({'out_dir': str(out), 'filename_tmpl': 'net+{}.ckpt'}, out / 'mine', 'net+3.ckpt', True),
    ]
    for hook, folder, name, by_epoch in cases:
        path = save(folder / name, 3, by_epoch)
        assert find_checkpoint(checkpoint_places(config(tmp_path, **hook)), 'me').path == path, hook
        path.unlink()


def test_hooks_among_the_custom_ones_count_too(tmp_path):
    cfg = config(tmp_path)
    cfg.custom_hooks = [{'type': 'mmdet.CheckpointHook', 'by_epoch': False, 'out_dir': str(tmp_path / 'b')}]
    assert checkpoint_places(cfg) == [
        Places(str(tmp_path / 'runs' / 'mine'), 'epoch_{}.pth', True),
        Places(str(tmp_path / 'b' / 'mine'), 'iter_{}.pth', False),
    ]
    cfg.default_hooks.checkpoint = None
    assert len(checkpoint_places(cfg)) == 1


def test_a_remote_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"CheckpointHook.out_dir must be a local folder.* got 's3://bucket/x'"):
        checkpoint_places(config(tmp_path, out_dir='s3://bucket/x'))


def test_a_best_checkpoint_counts_where_it_is_the_newest(tmp_path):
    """With a late ``save_begin`` it may be the only one."""
    save(tmp_path / 'best_coco_bbox_mAP_epoch_4.pth', 4)
    assert find_checkpoint(tmp_path, 'me').iteration == 20
    save(tmp_path / 'epoch_5.pth', 5)
    assert find_checkpoint(tmp_path, 'me').path.name == 'epoch_5.pth'


def test_of_two_kinds_the_one_that_is_further_is_taken(tmp_path):
    save(tmp_path / 'epoch_2.pth', 2)
    save(tmp_path / 'iter_9.pth', 9, by_epoch=False)
    assert find_checkpoint(tmp_path, 'me').path.name == 'epoch_2.pth'
    save(tmp_path / 'iter_11.pth', 11, by_epoch=False)
    assert find_checkpoint(tmp_path, 'me').path.name == 'iter_11.pth'
