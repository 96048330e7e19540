"""``nas report -o FILE.html``: a study as one self-contained page.

Untrusted text passes ``escape`` or, for the script, ``embedded``; the page's content security
policy lets the browser fetch nothing.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import metadata, resources

from nas.driver.beliefs import Beliefs
from nas.driver.finalists import Report
from nas.driver.plan import space_of
from nas.driver.tradeoffs import pareto
from nas.errors import NasError
from nas.job import Epoch
from nas.language.expression import show as shape_text
from nas.metrics import ACCURACY, metric, percent, shown
from nas.report import believed, charts, insight, mistakes, page_data, pages, reproduce, spaces
from nas.report.front import axes, directions
from nas.report.plot import style, tidy
from nas.report.screens import span
from nas.report.trials import caveats, places, taught
from nas.spaces.yaml_mapping import parse_mapping
from nas.store import ENDED, StudyRow, TrialRow
from nas.text import counted
from nas.training.evaluation import Evaluation

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
BROAD = 4  # most stages whose bars fit a third of the page
NEAR = 0.01  # accuracy that one might give up for a smaller network

Curves = Mapping[int, Sequence[Epoch]]  # by a trial's id


def page(
    study: StudyRow,
    rows: Sequence[TrialRow],
    curves: Curves,
    report: Report | None = None,
    beliefs: Beliefs | None = None,
    errors: Evaluation | None = None,
) -> str:
    """The whole page. ``report`` has the retrained finalists, if any, ``errors`` the winner's
    results on the test images; ``beliefs`` the sampler's estimates of the trials."""
    rows = [row for row in rows if row.state in ENDED]
    best = pareto(study, rows)
    title = f"{study.name}: {study.searched}"
    found = resources.files("nas.report")
    dark = f"@media screen and (prefers-color-scheme:dark){{{style(dark=True)}}}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _head(study, rows, best, beliefs, report),
        _front(study, rows, report, beliefs),
        _finalists(report),
        mistakes.section(errors) if errors else "",
        _grown(study, rows),
        _curves(study, rows, curves, best),
        _common(study, rows, best),
        _matters(study, rows),
        _trials(rows),
        _again(study, rows, report),
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f'<link rel="icon" href="data:,"><title>{escape(title)}</title>',
            f"<style>{style(dark=False)}{dark}{(found / 'page.css').read_text()}</style></head>",
            "<body><main>",
            *filter(None, parts),
            "</main>",
            '<script type="application/json" id="data">',
            f"{page_data.script(study, rows, best, report, beliefs)}</script>",
            f"<script>{(found / 'page.js').read_text()}</script>",
            "</body></html>",
            "",
        ]
    )


# --- the sections --------------------------------------------------------------------------------


def _head(
    study: StudyRow,
    rows: Sequence[TrialRow],
    best: Sequence[TrialRow],
    beliefs: Beliefs | None,
    report: Report | None,
) -> str:
    searched = [row for row in rows if not row.baseline]
    states = Counter(row.state for row in searched)
    spent = sum(row.seconds or 0.0 for row in searched)
    name = study.objectives[0][0]
    title = (
        f"best {metric(name).title}{', validation' * (name == ACCURACY and not study.evaluator)}"
    )
    found = shown(name, best[0].value(name)) if best else "none"
    if report:  # the retrained winner: the search's best score is also its luckiest
        title, found = "the winner's accuracy, test", percent(report.winner.test.value)
    tiles = {
        "trials ended": f"{len(searched):,}",
        "networks on the front": f"{len(best)}",
        title: found,
        "device time": span(spent),
    }
    begun = datetime.fromtimestamp(study.created).strftime("%Y-%m-%d")
    kinds = ", ".join(f"{count} {state}" for state, count in states.most_common())
    goals = ", ".join(f"{metric(n).title} {direction}" for n, direction in study.objectives)
    about = [f"begun {begun}", kinds or "no trial has ended", f"objectives: {goals}"]
    if study.constraints:
        bounds = (_bound(n, text) for n, text in study.constraints.items())
        about.append(f"constraints: {', '.join(bounds)}")
    listed = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for label, value in tiles.items()
    )
    lead = " ".join(filter(None, [winner(report), headline(study, best, beliefs)]))
    return f'<p class="faint">{escape(" · ".join(about))}</p><div class="tiles">{listed}</div>' + (
        f'<p class="lead">{escape(lead)}</p>' if lead else ""
    )


def _bound(name: str, text: str) -> str:
    sign, _, limit = str(text).partition(" ")
    return f"{metric(name).title} {sign} {tidy(shown(name, float(limit)))}"


def winner(report: Report | None) -> str:
    """The winner's results in its new trainings; empty where nothing was retrained."""
    if report is None:
        return ""
    found = report.winner
    trained = f", {counted(len(found.trainings), 'training')}" if found.trainings else ""
    return (
        f"The winner, trained again with other seeds, is {found.row.called}: "
        f"{pages.mean(found.validation)} on validation, {pages.mean(found.test)} on the test "
        f"images (means and 95 % intervals{trained})."
    )


def headline(study: StudyRow, best: Sequence[TrialRow], beliefs: Beliefs | None = None) -> str:
    """A summary: the most accurate network's result, the network estimated to be the best if that
    is another, and what a slightly lower accuracy would save."""
    name, cost = axes(study)[1], axes(study)[0]
    if not best or name != ACCURACY or directions(study, cost) != ["min"]:
        return ""
    top = best[0]
    title = metric(cost).title

    first = (
        f"The most accurate of the search is {top.called}: {percent(top.value(name))} at "
        f"{shown(cost, top.value(cost))} {title}."
    )
    if beliefs and beliefs.name == name and (belief := beliefs.by.get(top.id)):
        first += (
            f" Estimated from all trials, without the luck of one {study.once}: "
            f"{believed.cell(name, belief)}."
        )
        by = beliefs.by
        likely = max((row for row in best if row.id in by), key=lambda row: by[row.id].mean)
        if by[likely.id].mean > belief.mean:
            sentence = f"{believed.cell(name, by[likely.id])} at {shown(cost, likely.value(cost))}"
            first += f" The best by such estimates is {likely.called}: {sentence}."
    near = [row for row in best if row.value(name) >= top.value(name) - NEAR]
    least = min(near, key=lambda row: row.value(cost))
    if least is top or not least.value(cost) > 0:
        return first
    times = top.value(cost) / least.value(cost)
    return (
        f"{first} {least.called.capitalize()} is within a point of {top.called}, "
        f"{percent(least.value(name))}, at {shown(cost, least.value(cost))}: "
        f"{times:.1f} times less."
    )


def _front(
    study: StudyRow, rows: Sequence[TrialRow], report: Report | None, beliefs: Beliefs | None
) -> str:
    more = "".join(f" {escape(sentence)}." for sentence in caveats(study, rows))
    if report:
        more += (
            " A bar with a hollow point: the mean validation accuracy of new trainings with other "
            "seeds, and its 95 % interval."
        )
    if sentence := believed.note(study, beliefs):
        more += f" {sentence[0].upper()}{sentence[1:]}."
    return f"""<section id="front"><h2>What accuracy costs</h2>
<div class="bar-line"><label>across <select id="across"></select></label>
<label>upwards <select id="up"></select></label>
<span class="faint">point at a network to see it, select it to keep it</span></div>
<div class="split"><figure><div id="plane"><div id="tip" hidden></div></div>
<figcaption>The line is the front in these two metrics; large points are on the front of all
objectives, hollow ones without a bar break a constraint, diamonds are baselines, triangles what was
distilled or pruned.{more}</figcaption></figure>
<aside id="chosen" aria-live="polite"></aside></div><div id="network"></div></section>"""


def _finalists(report: Report | None) -> str:
    if report is None:
        return ""
    roles = ["winner" if not i else "" for i in range(len(report.finalists) + len(report.beside))]
    titles = pages.columns(report)
    cells = (
        _row(cells, titles, role) for cells, role in zip(pages.lines(report), roles, strict=True)
    )
    lead = "".join(f'<p class="lead">{escape(sentence)}</p>' for sentence in pages.choice(report))
    return (
        f"<section><h2>The winner, honestly</h2>{lead}"
        f'<div class="scroll"><table class="finalists stacked">{_heads(titles)}{"".join(cells)}'
        f'</table></div><p class="note">{escape(" ".join(pages.remarks(report)))}</p></section>'
    )


def _heads(columns: Sequence[str]) -> str:
    cells = "".join(f"<th{_kind(column)}>{escape(column)}</th>" for column in columns)
    return f"<thead><tr>{cells}</tr></thead>"


def _row(cells: Sequence[str], columns: Sequence[str], role: str) -> str:
    row_cells = "".join(
        f'<td{_kind(column)} data-title="{escape(column)}">{_two_lines(cell)}</td>'
        for cell, column in zip(cells, columns, strict=True)
    )
    return f'<tr class="{role}">{row_cells}</tr>'


def _two_lines(cell: str) -> str:
    """A value with its interval, if any, below it, to keep the table narrow."""
    value, apart, interval = cell.removesuffix(")").partition(" % (")
    if not apart:
        return escape(cell)
    return f'{escape(value)} %<br><span class="faint">{escape(interval)}</span>'


def _kind(column: str) -> str:
    return {"": "", "pattern": ' class="code"'}.get(column, ' class="number"')


def _grown(study: StudyRow, rows: Sequence[TrialRow]) -> str:
    growth = insight.growth(study, rows)
    if not growth.seconds:
        return ""
    return f"""<section><h2>How the front grew</h2>
<div class="pair"><figure>{charts.grown(growth, seconds=False)}</figure>
<figure>{charts.grown(growth, seconds=True)}</figure></div>
<p class="note">The hypervolume that the front dominates (Zitzler and Thiele 1998), as a share of
the box from the worst of each objective, and a tenth of its range beyond, to the best; costs by
their logarithm. Where it is flat, searching longer brings little.</p></section>"""


def _curves(
    study: StudyRow, rows: Sequence[TrialRow], found: Curves, best: Sequence[TrialRow]
) -> str:
    if not any(found.get(row.id) for row in rows):
        return ""
    every = "Validation accuracy by epoch of every trained trial"
    if study.evaluator:
        every = "Accuracy by epoch of every trial that reports it"
    return f"""<section><h2>How they learned</h2><div class="pair">
<figure>{charts.curves(study, rows, found, best)}</figure>
<p class="note">{every}; those of the front are coloured. Dashed: rungs, where a trial continues,
waits or stops.</p></div></section>"""


def _common(study: StudyRow, rows: Sequence[TrialRow], best: Sequence[TrialRow]) -> str:
    found = insight.common(best, rows)
    if not found or not best:
        return ""
    blocks: dict[str, list[insight.Common]] = {}
    for each in found:
        blocks.setdefault(each.symbol, []).append(each)
    listed = "".join(_block(symbol, stages) for symbol, stages in blocks.items())
    return f"""<section><h2>What the best have in common</h2>
<p class="note key">How often a value is chosen:<i></i>on the front<i class="all"></i>by all
networks. Above: how many of each have this stage.</p>
{_space(study)}
<div class="values">{listed}</div></section>"""


def _space(study: StudyRow) -> str:
    """The pattern, and the values of its symbols; the pattern alone where a plug-in that it needs
    is not loaded."""
    defined = ""
    try:
        space = space_of(study)
        pattern = space.pattern
        for key, domain in space.domains.items():
            each = f" (a value for each {spaces.each_text(domain)})" if domain.per else ""
            told = escape(f"{spaces.domain_text(domain)}{each}")
            defined += f"<dt><code>{escape(key)}</code></dt><dd>{told}</dd>"
    except NasError:
        pattern = _written(study)
    return f"<pre>{escape(pattern)}</pre>{f'<dl>{defined}</dl>' if defined else ''}"


def _written(study: StudyRow) -> str:
    try:
        return " ".join(str(parse_mapping(study.space_text, study.space)["pattern"]).split())
    except (NasError, KeyError):
        return study.space


def _block(symbol: str, stages: Sequence[insight.Common]) -> str:
    every = dict.fromkeys(share.value for stage in stages for share in stage.shares)
    values = sorted(every, key=insight.order)
    by_stage = [{share.value: share for share in stage.shares} for stage in stages]
    heads = "".join(
        f"<th>{escape(f'stage {stage.stage}' if stage.stage else '')}"
        f'<span class="faint">{stage.best} / {stage.all}</span></th>'
        for stage in stages
    )
    lines = []
    for value in values:
        cells = "".join(_stripes(shares.get(value)) for shares in by_stage)
        lines.append(f"<tr><td>{escape(value)}</td>{cells}</tr>")
    broad = ' class="broad"' if len(stages) > BROAD else ""
    return (
        f'<div{broad}><h3><code>{escape(symbol)}</code></h3><div class="scroll">'
        f'<table class="bars"><tr><th></th>{heads}</tr>{"".join(lines)}</table></div></div>'
    )


def _stripes(share: insight.Share | None) -> str:
    if share is None:
        return "<td></td>"
    shares = f"{share.best:.0%} of the front, {share.all:.0%} of all"
    return (
        f'<td class="cell" title="{shares}"><i class="stripe" style="width:{share.best:.0%}"></i>'
        f'<i class="stripe" style="width:{share.all:.0%}"></i></td>'
    )


def _matters(study: StudyRow, rows: Sequence[TrialRow]) -> str:
    parts = []
    for name, found in insight.importances(study, rows).items():
        most = max(found.values(), default=0.0)
        if not most > 0:
            continue
        lines = "".join(
            f'<tr><td><code>{escape(key)}</code></td><td class="number">{share:.0%}</td>'
            f'<td class="wide"><i class="stripe" style="width:{share / most:.0%}"></i></td></tr>'
            for key, share in found.items()
            if share >= 0.01
        )
        title = escape(f"to be among the best by {metric(name).title}")
        parts.append(f'<div><h3>{title}</h3><table class="bars">{lines}</table></div>')
    if not parts:
        return ""
    return f"""<section><h2>Which parameters matter</h2>
<div class="pair">{"".join(parts)}</div>
<p class="note">PED-ANOVA (Watanabe, Bansal and Hutter 2023) by Optuna, conditional for parameters
that not every network has: how differently the best (a tenth, at least five) choose it, as
shares of 1; parameters below 1 % are left out. With few trials this is only a
hint.</p></section>"""


def _trials(rows: Sequence[TrialRow]) -> str:
    beside = Counter(row.made or "baseline" for row in rows if row.baseline)
    kinds = [counted(len(rows) - beside.total(), "trial")]
    kinds += [f"{n} {kind}{'s' * (kind == 'baseline' and n > 1)}" for kind, n in beside.items()]
    return f"""<section><h2>All {", ".join(kinds)}</h2>
<div class="bar-line"><input id="search" type="search" aria-label="search the trials"
 placeholder="search: number, state, RESIDUAL ...">
<label><input id="only" type="checkbox"> front only</label>
<span id="count" class="faint" role="status"></span></div>
<p class="note paper">On paper: those of the front.</p>
<div id="trials"><table class="stacked"></table></div></section>"""


def _again(study: StudyRow, rows: Sequence[TrialRow], report: Report | None) -> str:
    shared = {k: v for k, v in study.recipe.items() if k != "teacher" and v not in ("", 0, False)}
    recipe = ", ".join(f"{k} {v}" for k, v in shared.items())
    settings = study.settings
    shape = shape_text(tuple(settings["input"])) if "input" in settings else ""
    versions = [f"Python {platform.python_version()}", *map(_version, _MADE_WITH)]
    facts = {
        "recipe": recipe or f"none: run by {study.evaluator}",
        "taught by": "; ".join(
            f"{name}: " + ("each" if len(of) == len(rows) else f"trial {', '.join(map(str, of))}")
            for name, of in taught(study, rows).items()
        ),
        "epochs": f"{settings['epochs']}"
        + (f", rungs {', '.join(map(str, settings['rungs']))}" if settings.get("rungs") else ""),
        "data": ", ".join(filter(None, [study.shown_data and study.dataset, study.images_about])),
        "input": f"{shape}, {settings.get('classes')} classes" if shape else "",
        "identity": study.images,
        "sampler": f"{study.sampler}, seed {study.seed}",
        "evaluator": study.evaluator,
        **places(study, rows),
        "made with": ", ".join(versions),
    }
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    commands = [reproduce.search_command(study, rows), reproduce.report_command(study, report)]
    space = f"<summary>the space, {escape(study.space)}</summary><pre>{escape(study.space_text)}"
    return (
        f"<section><h2>How it was made</h2><dl>{listed}</dl>"
        f"<p>To reproduce it:</p><pre>{escape(chr(10).join(commands))}</pre>"
        f"{f'<details>{space}</pre></details>' if study.space_text else ''}</section>"
    )


_MADE_WITH = ("nas-patterns", "torch", "optuna", "ray", "numpy")


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} unknown"
