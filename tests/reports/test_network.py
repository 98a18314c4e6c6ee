from itertools import pairwise

import pytest

from mmnas_ext.archs import ArchSpec, StageSpec, zoo
from mmnas_ext.reports import draw_network
from mmnas_ext.reports.network import network_figure, stage_macs
from mmnas_ext.reports.palette import candidate_styles, kernel_colour, tint
from tests.reports.drawn import boxes, by_gid, overlaps, png_size, texts

# MACs at 800x1088 and parameters of the backbones that the FNA authors' own code builds
GOLDEN = {'fna_retinanet': (4823403200, 2055712), 'mobilenet_v2': (4847148800, 1811712)}
FNA_LAYERS = (
    'k3_e1 | k3_e6 k3_e6 | k7_e6 k5_e6 | k3_e6 k5_e6 k7_e6 k3_e6 | k5_e6 k7_e6 | k7_e6 k7_e6 k7_e3 k7_e6 | k7_e6'
)
TINY = ArchSpec((StageSpec(8, 16, ('k3_e1',), 1), StageSpec(16, 24, ('k5_e3', 'k3_e6'), 2)), head_channels=64)


def figure_of(name, seed=None, size=(800, 1088), **settings):
    return network_figure(zoo.arch(name), seed=zoo.arch(seed) if seed else None, input_size=size, **settings)


def test_one_box_a_layer_with_its_token():
    figure = figure_of('fna_retinanet')
    wanted = {
        f'found.layer.{i}.{j}': token.replace('_', '\n')
        for i, stage in enumerate(FNA_LAYERS.split('|'))
        for j, token in enumerate(stage.split())
    }
    assert len(wanted) == 16
    assert set(boxes(figure, 'found.layer')) == set(wanted)
    labels = {
        gid.removesuffix('.label'): text.get_text()
        for gid, text in by_gid(figure, 'found.layer').items()
        if 'label' in gid
    }
    assert labels == wanted


def test_layers_of_other_kinds_and_another_stem_are_named():
    figure = figure_of('resnet50')
    assert len(boxes(figure, 'found.layer')) == 16
    shown = {text.get_text() for text in texts(figure)}
    assert {'7×7 /4\n64 ch', 'bottleneck blocks', 'expansion 0.25'} <= shown
    assert 'MBConv layers' not in shown
    assert not overlaps(texts(figure))


def test_seed_and_found_network_have_a_row_each():
    figure = figure_of('fna_retinanet', 'mobilenet_v2')
    assert (len(boxes(figure, 'seed.layer')), len(boxes(figure, 'found.layer'))) == (17, 16)
    seed, found = boxes(figure, 'seed.layer.3.0'), boxes(figure, 'found.layer.3.0')
    assert seed['seed.layer.3.0'].get_y() > found['found.layer.3.0'].get_y() + 100
    assert not boxes(figure_of('fna_retinanet'), 'seed.')


def test_width_and_colour_tell_the_kernel_and_height_the_expansion():
    drawn = boxes(figure_of('fna_retinanet'), 'found.layer')
    k3, k5, k7 = (drawn[f'found.layer.3.{index}'] for index in range(3))
    assert k3.get_width() < k5.get_width() < k7.get_width()
    assert len({box.get_edgecolor() for box in (k3, k5, k7)}) == 3
    e1, e3, e6 = (drawn[f'found.layer.{place}'] for place in ('0.0', '5.2', '5.1'))
    assert e1.get_height() < e3.get_height() < e6.get_height()
    assert e3.get_edgecolor() == e6.get_edgecolor() == k7.get_edgecolor()


def test_header_says_golden_madds_and_parameters():
    figure = figure_of('fna_retinanet', 'mobilenet_v2', title='FNA on RetinaNet')
    shown = {
        gid: text.get_text() for kind in ('seed', 'found') for gid, text in by_gid(figure, f'{kind}.facts').items()
    }
    assert shown['seed.facts'] == '4.847 G MAdds   1.812 M parameters   17 layers'
    # (4823403200 / 4847148800 - 1) and (2055712 / 1811712 - 1)
    change = '(\u22120.5 % MAdds, +13.5 % parameters)'
    assert shown['found.facts'] == f'4.823 G MAdds   2.056 M parameters   16 layers   {change}'
    assert by_gid(figure, 'title')['title'].get_text() == 'FNA on RetinaNet'
    assert by_gid(figure, 'note')['note'].get_text() == 'multiply-adds at 800\u00d71088 input'


def test_channels_strides_and_resolutions_of_the_stages():
    shown = [text.get_text() for text in texts(figure_of('fna_retinanet'))]
    for channels in (16, 24, 32, 64, 96, 160, 320):
        assert shown.count(f'{channels} ch') == 1
    counts = {
        size: shown.count(size.replace('x', '\u00d7')) for size in ('400x544', '200x272', '100x136', '50x68', '25x34')
    }
    assert counts == {'400x544': 2, '200x272': 1, '100x136': 1, '50x68': 2, '25x34': 2}
    assert [shown.count(f'stride {stride}') for stride in (2, 4, 8, 16, 32)] == [2, 1, 1, 2, 2]


def test_output_stride_stops_the_resolution():
    shown = [text.get_text() for text in texts(figure_of('fna_deeplabv3', size=(769, 769), output_stride=16))]
    # ceil(769 / 16) = 49: the stages of 64, 96, 160 and 320 channels
    assert shown.count('49\u00d749') == 4
    assert 'stride 32' not in shown


def test_shares_of_a_small_network_by_hand():
    # 32x32 input: stem 16x16 positions of 3*3*3*8; k3_e1 8 -> 16 there: 9*8 + 8*16;
    # k5_e3 16 -> 24 stride 2: expand 16*48 on 256 positions, 25*48 + 48*24 on 64; k3_e6 on 24: 24*144*2 + 9*144 on 64
    stem = 256 * 27 * 8
    first = 256 * (72 + 128)
    second = 256 * 768 + 64 * (1200 + 1152) + 64 * (2 * 3456 + 1296)
    assert stage_macs(TINY, (32, 32)) == (stem, first, second)
    assert stage_macs(TINY, (32, 32), head=True) == (stem, first, second, 64 * 24 * 64)


@pytest.mark.parametrize('name', sorted(GOLDEN))
def test_shares_sum_up_to_the_golden_total(name):
    shares = stage_macs(zoo.arch(name), (800, 1088))
    assert len(shares) == 8
    assert sum(shares) == GOLDEN[name][0]


def test_bars_are_as_high_as_the_shares():
    figure = network_figure(TINY, input_size=(32, 32), head=True)
    bars = boxes(figure, 'found.bar')
    heights = [bars[f'found.bar.{part}'].get_height() for part in range(4)]
    shares = [55296, 51200, 872448, 98304]
    assert heights == pytest.approx([share * heights[2] / shares[2] for share in shares])
    labels = [by_gid(figure, f'found.bar.{part}.label')[f'found.bar.{part}.label'].get_text() for part in range(4)]
    assert labels == ['55.3 k\n5 %', '51.2 k\n5 %', '872 k\n81 %', '98.3 k\n9 %']


def test_bars_of_both_networks_have_one_scale():
    half = ArchSpec((TINY.stages[0], StageSpec(16, 24, ('k5_e3',), 2)))
    bars = boxes(network_figure(half, seed=TINY, input_size=(32, 32)), '')
    seed, found = bars['seed.bar.2'].get_height(), bars['found.bar.2'].get_height()
    # the second stage as above: 347136 of the first layer, 525312 of the second
    assert found / seed == pytest.approx(347136 / 872448)
    assert bars['seed.bar.1'].get_height() == bars['found.bar.1'].get_height()


@pytest.mark.parametrize(
    ('name', 'asked', 'shown'), [('mobilenet_v2', True, 1), ('mobilenet_v2', False, 0), ('fna_retinanet', True, 0)]
)
def test_a_head_is_shown_where_there_is_one_and_it_is_asked_for(name, asked, shown):
    assert len(boxes(figure_of(name, head=asked), 'found.head')) == shown


@pytest.mark.parametrize(
    ('name', 'seed', 'settings'),
    [
        ('fna_retinanet', None, {}),
        ('fna_retinanet', 'mobilenet_v2', {}),
        ('fna_ssdlite', 'mobilenet_v2', {'size': (320, 320), 'head': True}),
        ('fna_deeplabv3', 'mobilenet_v2', {'size': (1024, 2048), 'output_stride': 16}),
        ('dna_d', 'efficientnet_lite2', {'size': (224, 224), 'head': True}),
    ],
)
def test_no_text_covers_another_or_leaves_the_figure(name, seed, settings):
    figure = figure_of(name, seed, **settings)
    shown = texts(figure)
    assert len(shown) > 60
    assert overlaps(shown) == []
    width, height = figure.canvas.get_width_height()
    extents = [text.get_window_extent() for text in shown]
    assert [e for e in extents if e.x0 < 0 or e.y0 < 0 or e.x1 > width or e.y1 > height] == []


@pytest.mark.parametrize(('name', 'seed'), [('fna_retinanet', 'mobilenet_v2'), ('dna_d', 'efficientnet_lite2')])
def test_boxes_stand_side_by_side_and_hold_their_labels(name, seed):
    figure = figure_of(name, seed)
    for kind in ('seed', 'found'):
        drawn = sorted(boxes(figure, f'{kind}.layer').values(), key=lambda box: box.get_x())
        gaps = [after.get_x() - before.get_x() - before.get_width() for before, after in pairwise(drawn)]
        assert min(gaps) > 3
        for box in drawn:
            extent = by_gid(figure, f'{box.get_gid()}.label')[f'{box.get_gid()}.label'].get_window_extent()
            assert box.get_x() <= extent.x0
            assert extent.x1 <= box.get_x() + box.get_width()
            assert extent.y1 - extent.y0 <= box.get_height()


def test_very_deep_networks_still_fit():
    deep = ArchSpec((StageSpec(32, 16, ('k3_e1',) * 4, 1), StageSpec(16, 24, ('k7_e6',) * 90, 2)))
    drawn = list(boxes(network_figure(deep, input_size=(64, 64)), 'found.layer').values())
    assert len(drawn) == 94
    assert max(box.get_x() + box.get_width() for box in drawn) < 1400


def test_the_file_is_1400_pixels_wide_and_the_same_each_time(tmp_path):
    one = draw_network(zoo.arch('fna_retinanet'), tmp_path / 'one.png', input_size=(800, 1088))
    two = draw_network(zoo.arch('fna_retinanet'), str(tmp_path / 'two.png'), input_size=(800, 1088))
    assert one == tmp_path / 'one.png'
    assert png_size(one.read_bytes()) == (1400, 514)
    assert one.read_bytes() == two.read_bytes()
    seeded = tmp_path / 'seeded.png'
    draw_network(zoo.arch('fna_retinanet'), seeded, seed=zoo.arch('mobilenet_v2'), input_size=(800, 1088))
    assert png_size(seeded.read_bytes()) == (1400, 754)


def test_a_title_is_no_formula():
    figure = network_figure(TINY, input_size=(32, 32), title='a $x_1$ <b>')
    assert not by_gid(figure, 'title')['title'].get_parse_math()


@pytest.mark.parametrize('size', [(0, 10), (32,), ('a', 'b')])
def test_a_wrong_input_size_is_refused(size, tmp_path):
    with pytest.raises(ValueError, match='size must be a pair of positive integers'):
        draw_network(TINY, tmp_path / 'x.png', input_size=size)


def test_a_tint_mixes_with_white():
    assert tint('#000000', 1.0) == '#000000'
    assert tint('#123456', 0.0) == '#FFFFFF'
    # 255 - (255 - 0) / 2 and 255 - (255 - 100) / 2, rounded to even
    assert tint('#006400', 0.5) == '#80B280'


def test_candidates_differ_in_colour_or_style():
    tokens = ('k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6', 'skip')
    styles = candidate_styles(tokens)
    assert tuple(styles) == tokens
    assert len(set(styles.values())) == 7
    assert styles['k5_e3'][0] == styles['k5_e6'][0] == kernel_colour(5)
    assert styles['k3_e6'][1] == styles['k7_e6'][1] == (0, ())
