"""What a run was, read from its manifest or guessed by its files."""

import json

import pytest

from mmnas_ext.archs import zoo
from mmnas_ext.reports.facts import Facts, find_method, read_facts
from mmnas_ext.workdir import WorkDir

SEED = zoo.arch('mobilenet_v2')
REPORT = {
    'method': 'random',
    'input_size': [320, 416],
    'output_stride': 16,
    'metric': 'latency',
    'limits': {'latency': {'min': None, 'max': 28.5}, 'macs': {'min': 1e9, 'max': 4e9}},
    'seed': SEED.format('fna'),
    'rank_by': 'mIoU',
    'rule': 'less',
}


def manifest(folder, **report):
    (folder / 'run.json').write_text(json.dumps({'id': 'abc', 'report': report}))
    return folder


def test_the_manifest_says_everything(tmp_path):
    facts = read_facts(manifest(tmp_path, **REPORT))
    limits = {'latency': (None, 28.5), 'macs': (1e9, 4e9)}
    assert facts.seed.format('fna') == SEED.format('fna')
    assert facts == Facts('random', (320, 416), 16, False, 'latency', limits, facts.seed, 'mIoU', 'less')
    assert facts.size_note == 'MAdds at 320×416'


def test_the_command_line_comes_first(tmp_path):
    facts = read_facts(manifest(tmp_path, **REPORT), (64, 96), 32)
    assert (facts.input_size, facts.output_stride, facts.assumed) == ((64, 96), 32, False)


def test_without_a_manifest_results_say_the_size_or_it_is_a_default(tmp_path):
    facts = read_facts(tmp_path)
    assert (facts.input_size, facts.output_stride, facts.assumed) == ((800, 1088), 32, True)
    assert facts.size_note.startswith('MAdds at 800×1088, a default: no file')
    (tmp_path / 'results.json').write_text('{"rows": [], "input_size": [96, 128]}')
    assert (read_facts(tmp_path).input_size, read_facts(tmp_path).assumed) == ((96, 128), False)
    # an older manifest, or one of a run that has none of it
    assert read_facts(manifest(tmp_path, method=None)).input_size == (96, 128)
    (tmp_path / 'run.json').write_text('{}')
    assert read_facts(tmp_path).input_size == (96, 128)


@pytest.mark.parametrize(
    ('files', 'method'),
    [
        ((), 'unknown'),
        (('1/vis_data/scalars.json',), 'plain'),
        (('search_log.jsonl', '1/vis_data/scalars.json'), 'gradient'),
        (('derived/arch.json',), 'gradient'),
        (('trials/00/result.json', 'derived/arch.json'), 'random'),
        (('ratings.json', 'derived/arch.json'), 'distillation'),
        (('rank.json',), 'distillation'),
    ],
)
def test_the_method_is_told_by_the_files(tmp_path, files, method):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"loss": 1.0}')
    assert find_method(WorkDir(tmp_path)) == method
    assert read_facts(manifest(tmp_path, method='evolution')).method == 'evolution'


@pytest.mark.parametrize(
    ('report', 'message'),
    [
        ({'input_size': [320]}, r'report: input_size must be \[height, width\], two positive integers, got \[320\]'),
        ({'output_stride': '16'}, "report: output_stride must be an integer, got '16'"),
        ({'limits': {'watts': {}}}, r"report: limits must be by metric, .*, got \['watts'\]"),
        ({'limits': {'macs': {'max': 'much'}}}, "report: limits: macs must be a number, got 'much'"),
        ({'limits': {'macs': 3}}, 'report: limits: macs must be an object, got 3'),
        ({'seed': 'nothing'}, 'report: seed: '),
        ({'seed': 5}, 'report: seed must be a text, got 5'),
        ({'rule': 'more'}, "report: rule must be 'greater' or 'less', got 'more'"),
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path, report, message):
    with pytest.raises(ValueError, match=rf'run\.json: {message}'):
        read_facts(manifest(tmp_path, **report))


def test_a_missing_folder_and_a_broken_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match='no work dir at .*nowhere'):
        read_facts(tmp_path / 'nowhere')
    (tmp_path / 'run.json').write_text('{')
    with pytest.raises(ValueError, match=r'run\.json: the text is not JSON'):
        read_facts(tmp_path)
    (tmp_path / 'run.json').write_text('{"report": []}')
    with pytest.raises(ValueError, match=r'run\.json: report must be an object, got \[\]'):
        read_facts(tmp_path)
