"""The page of every kind of run in a real browser, wide and narrow, light and dark, and on paper."""

import base64

import pytest

from mmnas_ext.reports import write_report
from mmnas_ext.reports.palette import DARK, INK, PAPER
from tests.reports.kinds import FOUND, KINDS, SEED, SMALL, count

pytestmark = pytest.mark.browser
# charts that each page has
CHARTS = {'running': 3, 'finished': 7, 'given': 1, 'drawn_at_random': 1, 'distillation': 5}


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """The page of each kind."""
    root = tmp_path_factory.mktemp('kinds')
    found = {}
    for name, make in KINDS.items():
        (root / name).mkdir()
        make(root / name)
        found[name] = write_report(root / name)[-1]
    return found


def rgb(colour):
    return f'rgb({", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})'


@pytest.mark.parametrize('kind', KINDS)
def test_a_page_fits_reads_and_complains_of_nothing(browser, pages, kind):
    browser.open(pages[kind], 420)
    assert browser.overflow() == []
    assert browser.run("return document.querySelectorAll('.chart .main-svg').length") >= CHARTS[kind]
    assert browser.run("return document.querySelectorAll('.chart').length") == CHARTS[kind]
    assert browser.colours('body', 'backgroundColor') == {rgb(PAPER)}
    assert browser.colours('.chart .gtitle, .chart .legendtext, .chart .textpoint text', 'fill') <= {rgb(INK)}
    # as wide as the page, not as it was drawn once
    widths = browser.run(
        "return [...document.querySelectorAll('.main-svg')].map(each => each.getBoundingClientRect().width)"
    )
    assert 0 < max(widths) <= 420
    browser.show(1400, dark=True)
    assert browser.overflow() == []
    assert browser.colours('body', 'backgroundColor') == {rgb(DARK[PAPER])}
    browser.wait("return document.querySelector('.chart .xtitle') || true")
    assert browser.colours('.chart .legendtext, .chart .textpoint text', 'fill') <= {rgb(DARK[INK])}
    browser.show(718, dark=True, media='print')
    assert browser.overflow() == []
    assert browser.colours('body', 'backgroundColor') == {rgb(PAPER)}
    assert browser.colours('.chart .legendtext, .chart .textpoint text', 'fill') <= {rgb(INK)}
    # paper does not scroll
    cut = 'filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent.slice(0, 60))'
    assert browser.run(f"return [...document.querySelectorAll('.wide')].{cut}") == []
    assert browser.colours('.chip', 'borderLeftWidth') <= {'5px'}
    assert browser.complaints() == []


def test_hovering_names_the_network_its_cost_and_its_metric(browser, pages):
    browser.open(pages['finished'])
    cheap = f'{count(SMALL)["macs"] / 1e6:.4g} M'
    said = browser.hover('.scatterlayer .points path.point', 0)
    assert 'K = 0' in said and f'MAdds {cheap}' in said and 'bbox_mAP 0.21' in said and 'trained: bbox_mAP 0.24' in said
    assert count(SMALL)['macs'] < count(FOUND)['macs'] < count(SEED)['macs']


def test_a_page_prints_on_a_few_sheets(browser, pages):
    browser.open(pages['finished'])
    browser.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'media': ''})  # of a screen no more
    printed = browser.driver.execute_cdp_cmd('Page.printToPDF', {'printBackground': True})
    sheets = base64.b64decode(printed['data']).count(b'/Type /Page\n')
    assert 2 <= sheets <= 9
    # and is as it was afterwards
    browser.wait("return Math.max(...[...document.querySelectorAll('.main-svg')].map(e => e.clientWidth)) > 700")
