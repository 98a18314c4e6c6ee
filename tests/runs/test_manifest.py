"""The manifest: its states, its text, and what of it is refused."""

import json

import pytest

from mmnas_ext.runs.manifest import Manifest, Part, ResumeError, new_id, read_manifest


def manifest(**parts):
    """A part is begun (False) or done (True)."""
    return Manifest('r', 'gradient', {name: Part(name, done=done) for name, done in parts.items()})


@pytest.mark.parametrize(('parts', 'state'), [
    ({}, 'created'),
    ({'search': False}, 'searching'),
    ({'search': True}, 'found'),
    ({'search': True, 'rating': False}, 'rating'),
    ({'search': True, 'rating': True}, 'found'),
    ({'search': True, 'derive': False}, 'found'),
    ({'search': True, 'derive': True}, 'derived'),
    ({'search': True, 'derive': True, 'adapt': False}, 'adapting'),
    ({'search': True, 'derive': True, 'adapt': True}, 'done'),
    # more iterations, or another limit: what comes after is no longer done
    ({'search': False, 'rating': True, 'derive': True, 'adapt': True}, 'searching'),
    ({'search': True, 'rating': True, 'derive': False, 'adapt': True}, 'found'),
    ({'adapt': False}, 'adapting'),
    ({'adapt': True}, 'done'),
    ({'derive': True}, 'derived'),
])  # fmt: skip
def test_the_state_follows_from_the_parts(parts, state):
    assert manifest(**parts).state == state


def test_a_given_network_needs_no_search():
    given = manifest(search=False).with_part('derive', Part('d', done=True, notes={'origin': 'given'}))
    assert given.state == 'derived'
    assert given.is_given
    assert not manifest(derive=True).is_given


def test_it_reads_back_what_it_writes():
    part = Part('a', {'model.x': [1, 2], 'limit': None}, True, {'arch': 'text', 'trials': [0, 1]})
    value = Manifest('r', 'random', {'search': part}, {'input_size': [3, 4]}, {'torch': '2'})
    assert Manifest.parse(value.format()) == value
    assert json.loads(value.format())['state'] == 'found'
    assert value.without('search').parts == {}
    assert value.is_done('search')
    assert not value.is_done('adapt')


@pytest.mark.parametrize(('trials', 'text'), [
    ([], ''), ([0], '0'), ([*range(42), 43], '0-41,43'), ([2, 0, 1, 7, 5, 6], '2,0-1,7,5-6'),
])  # fmt: skip
def test_trials_that_have_ended_are_written_short(trials, text):
    value = manifest(search=True).with_part('search', Part('a', notes={'trials': trials}))
    content = json.loads(value.format())
    assert content['parts']['search']['notes']['trials'] == text
    assert Manifest.parse(value.format()).parts['search'].notes['trials'] == trials
    # as earlier versions wrote them
    content['parts']['search']['notes']['trials'] = trials
    assert Manifest.parse(json.dumps(content)) == value


@pytest.mark.parametrize(('change', 'message'), [
    (lambda c: c['parts']['search'].update(notes={'trials': '0-4,x'}), r"notes.trials must be .*, got '0-4,x'"),
    (lambda c: c['parts']['search'].update(notes={'trials': '0-99999999'}), 'notes.trials must have ranges of 1 to 10'),
    (lambda c: c['parts']['search'].update(notes={'trials': '43-0'}), "notes.trials must have ranges .*, got '43-0'"),
    (lambda c: c['parts']['search'].update(notes={'trials': '0-5,3'}), "notes.trials must have each .* got '0-5,3'"),
    (lambda c: c['parts']['search'].update(notes={'trials': '\u0663'}), 'notes.trials must be numbers such as'),
    (lambda c: c['parts']['search'].update(notes={'trials': [0, 'a']}), r'notes.trials must be list\[int\]'),
    (lambda c: c.update(version=2), 'version must be 1, got 2'),
    (lambda c: c.update(state='done'), "state must be 'found', which its parts say, got 'done'"),
    (lambda c: c.update(speed=3), 'a field is missing or unknown'),
    (lambda c: c.pop('parts'), 'a field is missing or unknown'),
    (lambda c: c['parts'].update(dinner=c['parts']['search']), r"parts must be among .*'dinner'"),
    (lambda c: c['parts']['search'].update(colour=1), 'a field is missing or unknown'),
    (lambda c: c['parts']['search'].update(notes=[]), r'notes must be a Mapping, got \[\]'),
    (lambda c: c['parts']['search'].update(done='yes'), "done must be a bool, got 'yes'"),
])  # fmt: skip
def test_another_text_is_refused(tmp_path, change, message):
    content = json.loads(manifest(search=True).format())
    change(content)
    (tmp_path / 'run.json').write_text(json.dumps(content))
    with pytest.raises(ResumeError, match=f'run.json is no manifest of a run that this version knows: .*{message}'):
        read_manifest(tmp_path / 'run.json')


def test_a_torn_manifest_is_refused_and_none_is_none(tmp_path):
    path = tmp_path / 'run.json'
    assert read_manifest(path) is None
    text = manifest(search=True).format()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ResumeError, match='is no manifest'):
        read_manifest(path)
    path.write_text('[]')
    with pytest.raises(ResumeError, match='the text is not a JSON object but list'):
        read_manifest(path)


def test_ids_differ():
    assert len({new_id() for _ in range(100)}) == 100
