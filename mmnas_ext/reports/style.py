"""How the page looks, and the few lines of script that hand its charts to plotly."""

import json

from mmnas_ext.reports.palette import ACCENT, DARK, FAINT, FOUND, INK, PANEL, PAPER, RULE, SEED

_COLOURS = {
    'ink': INK, 'faint': FAINT, 'rule': RULE, 'panel': PANEL, 'paper': PAPER, 'accent': ACCENT, 'found': FOUND,
    'seed': SEED,
}  # fmt: skip


def _variables(dark: bool) -> str:
    return ' '.join(f'--{name}: {DARK[colour] if dark else colour};' for name, colour in _COLOURS.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {_variables(dark=False)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(dark=True)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1160px;
  margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2rem) 4rem; overflow-wrap: break-word; }
h1 { font-size: clamp(1.3rem, 4vw, 1.8rem); line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .4rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
a { color: inherit; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .75rem 0; font-size: .9rem; color: var(--faint); }
p.note, figcaption { color: var(--faint); font-size: .9rem; margin: .3rem 0; }
p.lead { font-size: clamp(1.05rem, 2.6vw, 1.3rem); line-height: 1.4; margin: .9rem 0; }
img { max-width: 100%; height: auto; display: block; }
pre { background: var(--panel); padding: .7rem .9rem; border-radius: 6px; font-size: .82rem; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .4rem 0; }
code { font-size: .9em; overflow-wrap: anywhere; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; vertical-align: bottom; }
th.text, td.text { white-space: normal; text-align: left; min-width: 14rem; }
tr.found td { font-weight: 650; }
dl.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 165px), 1fr)); gap: .7rem;
  margin: 1rem 0; }
dl.cards > div { background: var(--panel); border-radius: 8px; padding: .6rem .8rem; }
dl.cards dt { color: var(--faint); font-size: .85rem; }
dl.cards dd { margin: .1rem 0 0; font-size: 1.15rem; font-weight: 650; line-height: 1.3; }
dl.cards small { display: block; font-size: .82rem; font-weight: 400; color: var(--faint); }
dl.words dt { font-weight: 650; margin-top: .6rem; }
dl.words dd { margin: 0; color: var(--faint); }
details { margin: .6rem 0; } summary { cursor: pointer; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem 1.2rem; }
.grid h3 { margin: .4rem 0 0; }
.chart { min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--faint); }
.legend span { white-space: nowrap; }
.key { display: inline-block; width: 1.7rem; vertical-align: middle; border-top: 3px solid; margin-right: .35rem; }
.net { display: grid; gap: .15rem .8rem; font-size: .85rem; align-items: start;
  grid-template-columns: minmax(7.5rem, auto) repeat(var(--nets), minmax(0, 1fr)); }
.net > .head { font-weight: 650; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
.net > .stage { color: var(--faint); padding-top: .35rem; }
.net > .layers { padding: .3rem 0; }
.chips { display: flex; flex-wrap: wrap; gap: 3px; }
.chip { border-radius: 4px; padding: 0 .35rem; font-size: .78rem; line-height: 1.5rem; white-space: nowrap;
  border-left: 5px solid var(--kernel, var(--faint)); background: var(--panel); }
.legend .chip { display: inline-block; width: 1.1rem; height: 1rem; vertical-align: -2px; }
.chip.other { outline: 1.5px solid var(--accent); }
.share { height: 5px; border-radius: 3px; background: var(--found); margin-top: 4px; min-width: 1px; }
.share + small { color: var(--faint); font-size: .75rem; }
.samples { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(min(46%, 215px), 1fr));
  margin: .5rem 0 1.2rem; }
.samples figure { margin: 0; min-width: 0; }
.pane { position: relative; overflow: hidden; border-radius: 4px; line-height: 0; }
.pane img { width: 100%; }
.pane img + img { position: absolute; inset: 0; height: 100%; opacity: .62; image-rendering: pixelated; }
.box { position: absolute; border: 2px solid var(--c); border-radius: 2px; }
.box b { position: absolute; left: -2px; top: -2px; background: var(--c); color: var(--t); line-height: 1.2;
  font-size: .66rem; font-weight: 600; padding: 0 .2rem; white-space: nowrap; border-radius: 2px; }
.swatch { display: inline-block; width: .9rem; height: .9rem; border-radius: 3px; background: var(--c);
  vertical-align: -2px; margin-right: .3rem; }
@media (max-width: 600px) {
  th, td { padding-right: .55rem; font-size: .84rem; }
  th.more, td.more { display: none; }
  .net { grid-template-columns: repeat(var(--nets), minmax(0, 1fr)); }
  .net > .corner { display: none; }
  .net > .stage { grid-column: 1 / -1; border-top: 1px dotted var(--rule); }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2, h3, p.note, summary, .legend, dt { break-after: avoid; }
  p.note, .legend, dd, .chart, tr, figure, dl.cards > div, .grid > div, .wide > img { break-inside: avoid; }
  .grid { grid-template-columns: 1fr 1fr; }
  .wide > table { font-size: 8.5pt; } .wide > img { min-width: 0 !important; }
  .wide th, .wide td { padding-right: .5rem; } td:first-child, td.text { overflow-wrap: anywhere; }
  .wide th.text, .wide td.text { min-width: 9rem; }
  dl.cards > div, pre { border: 1px solid var(--rule); }
  .chip { border: 1px solid var(--rule); border-left: 5px solid var(--kernel, var(--faint)); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)

# Charts are JSON on light paper: where it is dark, colours are exchanged; on paper they have a fixed width.
_SCRIPT = """
(function () {
  const dark = matchMedia('(prefers-color-scheme: dark)'), paper = matchMedia('print');
  const exchange = Object.entries(__DARK__);
  const charts = [...document.querySelectorAll('.chart')];
  const hand = matchMedia('(pointer: fine)').matches;
  function draw(chart, printed) {
    let text = chart.querySelector('script').textContent;
    if (dark.matches && !printed) for (const [from, to] of exchange) text = text.replaceAll(from, to);
    const figure = JSON.parse(text);
    figure.layout.dragmode = hand ? 'zoom' : false;
    if (printed) figure.layout.width = chart.closest('.grid') ? 325 : 680;
    return Plotly.react(chart.querySelector('div'), figure.data, figure.layout,
      {displayModeBar: false, responsive: !printed});
  }
  let printed = false;
  function drawAll(onPaper) { printed = onPaper; for (const chart of charts) draw(chart, onPaper); }
  dark.addEventListener('change', () => drawAll(printed));
  paper.addEventListener('change', event => drawAll(event.matches));
  addEventListener('beforeprint', () => { if (!printed) drawAll(true); });
  addEventListener('afterprint', () => { if (printed) drawAll(false); });
  addEventListener('beforeprint', () => { for (const each of document.querySelectorAll('details')) each.open = true; });
  (function next(index) {
    if (index === charts.length) { document.documentElement.dataset.drawn = 'yes'; return; }
    draw(charts[index], paper.matches);
    setTimeout(next, 0, index + 1);
  })(0);
})();
"""


def script() -> str:
    """The page's own script, which draws its charts once plotly is there."""
    return _SCRIPT.replace('__DARK__', json.dumps(DARK))
