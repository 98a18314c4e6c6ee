"""What the page says of a run that has not ended, or that ended otherwise than most do."""

import json
import shlex
from dataclasses import replace

import pytest

from mmnas_ext.archs import ArchSpec
from mmnas_ext.reports import write_report
from mmnas_ext.reports.facts import Facts, read_facts
from mmnas_ext.reports.glossary import WORDS
from mmnas_ext.reports.going_on import next_commands, options_of
from mmnas_ext.reports.result import read_result
from mmnas_ext.search.decision import Adapted, Compared, Decision
from mmnas_ext.workdir import WorkDir
from tests.reports import kinds
from tests.reports.kinds import FOUND, METRIC, SEED, SMALL
from tests.reports.test_page import Page

FACTS = Facts('gradient', (64, 96), 32)


@pytest.fixture
def found(tmp_path):
    """A search with a front whose network is about to be trained."""
    root = tmp_path / 'a run'
    root.mkdir()
    kinds.search(root)
    kinds.train(root, FOUND, 0.2)
    kinds.choose(root)
    return root


def text_of(folder):
    return Page(write_report(folder)[-1].read_text(encoding='utf-8')).text


def forget_validations(folder):
    """Leaves a training as it is before its first validation."""
    (file,) = (folder / 'adapt').glob('*/vis_data/scalars.json')
    file.write_text(''.join(line for line in file.read_text().splitlines(True) if '"loss"' in line))


@pytest.mark.parametrize(
    ('state', 'note'), [('adapting', 'in training, not validated yet'), ('done', 'its training was not validated')]
)
def test_a_training_is_shown_before_it_has_a_metric(found, state, note):
    forget_validations(found)
    kinds.manifest(found, state)
    text = text_of(found)
    assert f'0.250{note}' in text and 'not trained yet' not in text
    assert 'trained up to epoch 1 of 3, iteration 10' in text
    assert 'Training of the networks' in text
    # one that was trained as a network of the front alone is shown by that
    (found / 'adapt').rename(found / 'elsewhere')
    assert f'{METRIC.rpartition("/")[2]}, in the search0.250not trained yet' in text_of(found)
    kinds.train(found / 'front' / '1', FOUND, 0.29)
    assert read_result(WorkDir(found), read_facts(found), FOUND).find('found').trained[METRIC] == 0.29


def test_a_kept_reference_is_not_compared_with_itself(found):
    kinds.manifest(found)
    file = WorkDir(found).decision
    assert 'its loss is below that of the seed with a probability of 90%' in text_of(found)
    # as versions before wrote it
    kept = replace(Decision.parse(file), arch=SEED, better=0.5, why='the reference is kept')
    assert kept.beats is None and 'probability' not in kept.describe()
    file.write_text(kept.format())
    assert 'its loss is below' not in text_of(found)


def test_brief_adaptations_that_decided_are_shown(found):
    kinds.manifest(found)
    file = WorkDir(found).decision
    adapted = Adapted('coco/bbox_mAP', 0.25, SEED, (Compared(FOUND, 3e6, 0.0125, 0.01, 0.02, 3),))
    file.write_text(replace(Decision.parse(file), adapted=adapted).format())
    text = text_of(found)
    assert 'Adapted briefly it beats the seed with a probability of 90%' in text
    assert 'its loss is below' not in text
    assert 'Networks that were adapted briefly' in text
    assert 'expected coco/bbox_mAP less the reference' in text and '+0.0125 ± 0.0100' in text


def test_a_network_of_the_own_front_was_picked_not_given(found):
    WorkDir(found).arch.write_text(SMALL.format('json'))
    kinds.manifest(found, given=True)
    text = text_of(found)
    assert 'Search in a run' in text and 'network K = 0 of its front was picked' in text
    assert 'Given network' not in text and 'was given' not in text
    assert f"mmnas report '{found}'" in text
    other = ArchSpec((*SEED.stages[:2],), SEED.stem_channels)
    WorkDir(found).arch.write_text(other.format('json'))
    assert 'the network was given, and not chosen by the search here' in text_of(found)
    # a search that has lost its log has found its network all the same
    for name in ('search_log.jsonl', 'search_space.json', 'front.json'):
        (found / name).unlink()
    kinds.manifest(found)
    assert 'Search in a run' in text_of(found)


def test_a_network_that_leads_above_the_limit_is_said_to(tmp_path):
    kinds.running(tmp_path)
    manifest = json.loads((tmp_path / 'run.json').read_text())
    assert 'above the limit' not in text_of(tmp_path)
    manifest['report']['limits']['macs']['max'] = 1e6
    (tmp_path / 'run.json').write_text(json.dumps(manifest))
    assert '; that is above the limit of 1.000 M, which the choice at the end keeps to.' in text_of(tmp_path)


def test_alpha_that_was_not_trained_has_no_charts_and_no_leader(tmp_path):
    kinds.running(tmp_path)
    log = tmp_path / 'search_log.jsonl'
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text(''.join(json.dumps({**row, 'alpha': rows[0]['alpha']}) + '\n' for row in rows))
    text = text_of(tmp_path)
    assert 'alpha was not trained: in all records softmax(alpha) is what it was at the start' in text
    assert 'leads so far' not in text and 'skip leads' not in text and 'arch steps seen' not in text
    assert not (tmp_path / 'alphas.png').exists()


def test_words_are_explained_as_they_are_computed():
    assert 'mean absolute error over the standard deviation' in WORDS['rating']
    assert 'as measured, a cheaper one may well be better' in WORDS['front']


START = "mmnas train 'a b.py' --work-dir {place} --arch x.json --search-only --cfg-options a=1"


@pytest.mark.parametrize(
    ('state', 'line'),
    [
        ('searching', "mmnas train 'a b.py' --work-dir {place} --search-only --resume --cfg-options a=1"),
        ('derived', "mmnas train 'a b.py' --work-dir {place} --resume --cfg-options a=1"),
        ('adapting', "mmnas train 'a b.py' --work-dir {place} --search-only --resume --cfg-options a=1"),
    ],
)
def test_a_run_that_has_not_ended_is_resumed_as_it_was_started(tmp_path, state, line):
    place = tmp_path / 'work dirs'
    quoted = shlex.quote(str(place))
    facts = replace(FACTS, state=state, commands=(START.format(place=quoted), "it's none"))
    commands = next_commands(WorkDir(place), facts)
    assert commands[0].partition('   #')[0] == line.format(place=quoted)
    assert commands[-1] == f'mmnas report {quoted}'
    assert not any(each.startswith('mmnas test') for each in commands)


@pytest.mark.parametrize(
    ('line', 'options'),
    [
        ('train a.py --cfg-options a=1 b=2 --amp', ['a=1', 'b=2']),
        ('train a.py --cfg-options=a=1 --amp', ['a=1']),
        ('train a.py --cfg a=1 host_choice=x --work-dir=w', ['a=1']),
        ('train a.py --work-dir w', []),
        ('train a.py --cfg-options', []),
    ],
)
def test_options_of_a_command_line(line, options):
    assert options_of(line.split()) == options


@pytest.mark.parametrize(
    ('options', 'left'),
    [
        ('--cfg-options host_choice=64x64-w32-c1', '--resume'),
        ('--cfg-options=host_choice=64x64-w32-c1', '--resume'),
        ('--cfg-options host_choice=64x64-w32-c1 --amp', '--resume --amp'),
        ('--cfg-options a=1 host_choice=64x64-w32-c1', '--resume --cfg-options a=1'),
        ('--cfg-options a=1 --amp', '--resume --cfg-options a=1 --amp'),
        ('--amp', '--amp --resume'),
        ('--join --cfg-options a=1', '--join --cfg-options a=1'),
    ],
)
def test_the_host_of_a_given_network_goes_with_the_network(tmp_path, options, left):
    facts = replace(FACTS, state='adapting', commands=(f'mmnas train a.py --arch x.json {options}',))
    assert next_commands(WorkDir(tmp_path), facts)[0].partition('   #')[0] == f'mmnas train a.py {left}'


def test_what_is_to_go_on_is_quoted_for_a_shell(tmp_path):
    place = tmp_path / 'a b'
    kinds.train(place, FOUND)
    for file in (place / 'net.py', place / 'derived' / 'config.py', place / 'adapt' / 'epoch_3.pth'):
        file.write_text('')
    commands = [shlex.split(line, comments=True) for line in next_commands(WorkDir(place), FACTS)]
    assert commands == [
        ['mmnas', 'train', str(place / 'net.py'), '--work-dir', f'{place}-again'],
        ['mmnas', 'test', *map(str, (place / 'derived' / 'config.py', place / 'adapt' / 'epoch_3.pth')),
         '--work-dir', str(place / 'test')],
        ['mmnas', 'report', str(place)],
    ]  # fmt: skip
    # without a record of how it was started
    resumed = next_commands(WorkDir(place), replace(FACTS, state='adapting'))[0]
    assert resumed.startswith(f'mmnas train {shlex.quote(str(place / "net.py"))} --work-dir ')
    (place / 'net.py').unlink()
    trained = shlex.split(next_commands(WorkDir(place), replace(FACTS, state='derived'))[0], comments=True)
    assert trained == ['mmnas', 'train', str(place / 'derived' / 'config.py'), '--work-dir', f'{place}-trained']
