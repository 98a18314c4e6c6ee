"""The file of a front: read back as a selection wrote it, and held against the ratings that it was found in."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import Limit, zoo
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.select import select
from tests.search.test_ratings import ratings


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = select(ratings(), {'macs': 10**9, 'params': None})
    file = found.write(tmp_path)
    for source in (file, str(tmp_path), json.loads(file.read_text())):
        read = FrontFile.parse(source, ratings())
        assert read.metric == 'macs'
        assert read.costs == tuple(found.front.costs.tolist())
        assert read.ratings == tuple(found.front.ratings.tolist())
        assert read.limits == {'macs': Limit(None, 10**9)}
        assert (read.chosen_costs, read.rating, read.choice) == (found.costs, found.chosen.rating, found.chosen.choice)
        assert read.arch.format('fna') == found.arch.format('fna')


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        (('metric',), 'watts', "metric must be among .*, got 'watts'"),
        (('costs',), [1, 2], r'costs, ratings and choices must be as many, got 2, \d and \d'),
        (('costs',), [], 'costs must hold at least 1, got 0'),
        (('costs', 1), 0, r'costs must ascend, got \d+ before 0'),
        (('ratings', 1), 99.5, r'ratings must descend, got [\d.]+ before 99\.5'),
        (('ratings', 0), 'low', "ratings must be a number, got 'low'"),
        (('limits', 'macs'), 'much', "limits macs.max must be a number or None, got 'much'"),
        (('limits', 'watts'), 3, r"limits must be by metric, .* got \['watts'\]"),
        (('chosen',), None, 'chosen must be an object, got None'),
        (('chosen', 'costs'), {'params': 3}, r"chosen: costs must have the front's metric macs, got \['params'\]"),
        (('chosen', 'choice'), [0], 'chosen: choice must have one index per block, 2, got 1'),
        (('chosen', 'choice'), [0, 12], r'chosen: choice\[1\] must lie in 0\.\.11, got 12'),
        (('chosen', 'choice'), [0, 0], r'chosen: choice \[0, 0\] must be its arch by the ratings, got'),
        (('arch',), zoo.arch('mobilenet_v2').format('fna'), 'chosen: choice .* must be its arch by the ratings'),
        (('arch',), 'nothing', 'arch: '),
    ],
)
def test_what_is_not_of_the_form_is_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str
) -> None:
    content = json.loads(select(ratings(), {'macs': 10**9}).format())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / 'front.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf'front\.json: {message}'):
        FrontFile.parse(tmp_path, ratings())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'front file does not exist: .*front\.json'):
        FrontFile.parse(tmp_path)
