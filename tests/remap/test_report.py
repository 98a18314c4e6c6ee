"""The report of a remap, against lines written by hand."""

from mmnas_ext.remap import Entry, RemapReport
from mmnas_ext.remap.report import action_of

REPORT = RemapReport(
    entries=(
        Entry('stem.conv.weight', 'stem.conv.weight', 'copied', (2, 3, 3, 3), (2, 3, 3, 3)),
        Entry('a.depthwise.conv.weight', 'b.depthwise.conv.weight', 'cropped+padded', (8, 1, 3, 3), (4, 1, 5, 5)),
        Entry('stem.bn.num_batches_tracked', 'stem.bn.num_batches_tracked', 'copied', (), ()),
        Entry('head.bn.bias', None, 'new', None, (5,)),
    ),
    unused=('c.expand.bn.bias',),
    notes=("the seed's activation is swish, the target's relu6",),
)


def test_table_is_aligned_and_complete() -> None:
    assert REPORT.table().splitlines() == [
        'tensor                       action          shape    seed tensor                  seed shape',
        'stem.conv.weight             copied          2x3x3x3  stem.conv.weight             2x3x3x3',
        'a.depthwise.conv.weight      cropped+padded  4x1x5x5  b.depthwise.conv.weight      8x1x3x3',
        'stem.bn.num_batches_tracked  copied          scalar   stem.bn.num_batches_tracked  scalar',
        'head.bn.bias                 new             5        -                            -',
        '-                            unused          -        c.expand.bn.bias             -',
        "the seed's activation is swish, the target's relu6",
        str(REPORT),
    ]


def test_counts_name_every_action() -> None:
    assert REPORT.counts() == {
        'copied': 2, 'cropped': 0, 'padded': 0, 'cropped+padded': 1, 'new': 1, 'unused': 1
    }  # fmt: skip


def test_summary_leaves_out_what_did_not_happen() -> None:
    assert str(REPORT) == (
        'remapped 4 tensors: 2 copied, 1 cropped+padded, 1 new, 1 unused; '
        "the seed's activation is swish, the target's relu6"
    )
    assert str(RemapReport(())) == 'remapped 0 tensors: none'


def test_action_follows_from_the_shapes() -> None:
    assert action_of((4, 1, 3, 3), (4, 1, 3, 3)) == 'copied'
    assert action_of((4, 1, 5, 5), (4, 1, 3, 3)) == 'cropped'
    assert action_of((4, 1, 3, 3), (8, 1, 3, 3)) == 'padded'
    assert action_of((8, 1, 3, 3), (4, 1, 5, 5)) == 'cropped+padded'
    assert action_of((), ()) == 'copied'
