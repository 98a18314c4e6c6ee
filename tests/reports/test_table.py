import pytest

from mmnas_ext.reports import comparison_table, format_count
from mmnas_ext.reports.table import format_size, table_cells

SEED = {'network': 'MobileNetV2', 'macs': 4847148800, 'params': 1811712, 'metrics': {'mAP': 0.328, 'loss': 1.25}}
FOUND = {'network': 'FNA', 'macs': 4823403200, 'params': 2055712, 'metrics': {'mAP': 0.339}}


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (4823403200, '4.823 G'),
        (133.03e9, '133.0 G'),
        (2055712, '2.056 M'),
        (721878976, '721.9 M'),
        (24_520_000_000, '24.52 G'),
        (1_000_000, '1.000 M'),
        (999_940_000, '999.9 M'),
        (999_960_000, '1.000 G'),
        (999_999, '1.000 M'),
        (1000, '1.000 k'),
        (999, '999'),
        (0, '0'),
        (2.5e12, '2.500 T'),
        (5.2e15, '5200 T'),
    ],
)
def test_a_count_has_four_digits_and_a_unit(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(('value', 'text'), [(713_458_176, '713 M'), (10_140_000_000, '10.1 G'), (999_600, '1.00 M')])
def test_a_count_may_have_fewer_digits(value, text):
    assert format_count(value, digits=3) == text


@pytest.mark.parametrize('value', [-1, float('nan'), float('inf'), '12', True])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match='a count must be a finite number of at least 0'):
        format_count(value)


def test_a_size_is_height_times_width():
    assert format_size((800, 1088)) == '800\u00d71088'


def test_the_table_of_seed_and_found_network():
    assert comparison_table([SEED, FOUND]).splitlines() == [
        '| network     |   MAdds | parameters |   mAP | loss |',
        '| ----------- | ------: | ---------: | ----: | ---: |',
        '| MobileNetV2 | 4.847 G |    1.812 M | 0.328 | 1.25 |',
        '| FNA         | 4.823 G |    2.056 M | 0.339 |    \u2013 |',
    ]


def test_columns_stay_aligned_whatever_the_names():
    rows = [
        {'network': 'a', 'macs': 1, 'params': 2, 'metrics': {'a very long metric': 3.0}},
        {'network': 'a much longer name', 'macs': 10**12, 'params': 3, 'metrics': {'x': 77.126}},
    ]
    lines = comparison_table(rows).splitlines()
    bars = {tuple(index for index, character in enumerate(line) if character == '|') for line in lines}
    assert len(lines) == 4
    assert len(bars) == 1
    assert '77.13' in lines[3]


def test_a_name_cannot_break_the_table():
    table = comparison_table([{'network': 'a|b\nc', 'macs': 1, 'params': 1}])
    assert table.splitlines()[2].startswith('| a\\|b c  |')
    assert len(table.splitlines()) == 3


def test_metrics_come_in_the_order_in_which_rows_name_them():
    rows = [
        {'network': 'a', 'macs': 1, 'params': 1, 'metrics': {'mIoU': 75.5}},
        {'network': 'b', 'macs': 1, 'params': 1, 'metrics': {'aAcc': 95.25, 'mIoU': 76.61}},
        {'network': 'c', 'macs': 1, 'params': 1},
    ]
    cells = table_cells(rows)
    assert cells[0] == ['network', 'MAdds', 'parameters', 'mIoU', 'aAcc']
    assert [row[3:] for row in cells[1:]] == [['75.50', '\u2013'], ['76.61', '95.25'], ['\u2013', '\u2013']]


@pytest.mark.parametrize(
    ('rows', 'message'),
    [
        ([], 'rows must hold at least one network'),
        ([SEED, {'macs': 1, 'params': 1}], 'row 1 lacks network'),
        (['FNA'], "row 0 must be an object, got 'FNA'"),
        ([{'network': 'x', 'macs': -1, 'params': 1}], r'row 0 \(x\): macs must be at least 0, got -1'),
        ([{'network': 'x', 'macs': 1}], r'row 0 \(x\) lacks params'),
        ([{'network': 'x', 'macs': 1, 'params': 1, 'metrics': [1]}], r'metrics must be an object, got \[1\]'),
        (
            [{'network': 'x', 'macs': 1, 'params': 1, 'metrics': {'mAP': 'n/a'}}],
            "metrics: mAP must be a number, got 'n/a'",
        ),
    ],
)
def test_rows_of_another_form_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        comparison_table(rows)
