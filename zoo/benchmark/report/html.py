"""``report.html``: one file that needs no network, with the tables, the plots and the clips."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

import numpy as np

from reelrl.zoo.benchmark.report.charts import Json, charts, profile_chart
from reelrl.zoo.benchmark.report.claims import claims_table
from reelrl.zoo.benchmark.report.compare import methods_of, predictions
from reelrl.zoo.benchmark.report.markdown import definitions, facts, headlines
from reelrl.zoo.benchmark.report.numbers import Results
from reelrl.zoo.benchmark.report.reading import RecordedScenario
from reelrl.zoo.benchmark.report.statistics import mean_interval
from reelrl.zoo.benchmark.report.table import NONE, Table, interval
from reelrl.zoo.benchmark.report.tables import (
    best_of_n_table,
    control_table,
    equal_terms_table,
    mechanism_table,
    missing_table,
    overall_table,
    pairs_table,
    predicted_table,
    scenario_table,
    speed_table,
)

FULL_SHADE = 0.3
"""Gold gain at which a cell of the matrix has its full colour."""


def _inline(text: str) -> str:
    """The little markdown that the texts use: bold, emphasis and code."""
    text = escape(text, quote=False)
    for mark, tag in (("**", "strong"), ("`", "code"), ("*", "em")):
        parts = text.split(mark)
        # An odd mark at the end opens nothing: it is a multiplication sign.
        if len(parts) % 2:
            text = "".join(
                part if i % 2 == 0 else f"<{tag}>{part}</{tag}>" for i, part in enumerate(parts)
            )
    return text


def _matrix(results: Results) -> str:
    """Scenario by method, shaded by the gain, with the outcome of the predictions."""
    suite = results.suite
    header = "".join(f'<th data-method="{i}">{escape(m)}</th>' for i, m in enumerate(suite.methods))
    rows = []
    for scenario in suite.scenarios:
        cells = [_matrix_cell(results, scenario.name, i, m) for i, m in enumerate(suite.methods)]
        fate = "<br>".join(
            f'{escape(p.text)}: <span class="verdict {p.found.replace(" ", "-")}">'
            f"{escape(p.found)}</span>{p.remark}"
            for p in predictions(results, scenario)
        )
        link = f'<a href="#{escape(scenario.name)}">{escape(scenario.name)}</a>'
        rows.append(f"<tr><th>{link}</th>{''.join(cells)}<td>{fate or NONE}</td></tr>")
    return (
        '<div class="scroll"><table class="matrix"><thead><tr><th>scenario</th>'
        f"{header}<th>predicted: found</th></tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _matrix_cell(results: Results, scenario: str, place: int, method: str) -> str:
    gain = mean_interval(results.get(scenario, method, "gold_gain"))
    if np.isnan(gain.estimate):
        return f'<td data-method="{place}">{NONE}</td>'
    shade = round(100 * min(1.0, abs(gain.estimate) / FULL_SHADE))
    tone = "up" if gain.estimate > 0 else "down"
    middle, _, bounds = interval(gain, 2).partition(" ")
    return (
        f'<td class="{tone}" style="--shade:{shade}%" data-method="{place}">'
        f"<b>{escape(middle)}</b><small>{escape(bounds)}</small></td>"
    )


def _clip(results: Results, path: str, label: str, place: int | None) -> str:
    file = results.suite.folder / "clips" / path
    if not file.exists():
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    hide = "" if place is None else f' data-method="{place}"'
    return (
        f'<figure{hide}><img class="clip" src="data:image/gif;base64,{data}" '
        f'alt="clips of {escape(label)}"><figcaption>{escape(label)}</figcaption></figure>'
    )


def _clips(results: Results, scenario: RecordedScenario) -> str:
    found = [
        _clip(results, f"{scenario.name}/{method}.gif", method, place)
        for place, method in enumerate(results.suite.methods)
    ]
    if not any(found):
        return ""
    base = _clip(results, "base.gif", "base model, before training", None)
    return (
        "<h4>Before and after</h4><p class=note>The same prompts and the same noise for every "
        f'method.</p><div class="clips">{base}{"".join(found)}</div>'
    )


def _chart(chart: Json) -> str:
    """An empty frame; the script draws into it."""
    choices = "".join(
        f'<option value="{i}">{escape(view["name"])}</option>'
        for i, view in enumerate(chart["views"])
    )
    select = f'<select aria-label="numbers to plot">{choices}</select>'
    return (
        f'<figure class="chart" id="{escape(chart["id"])}"><div class="bar">'
        f"<h4>{escape(chart['title'])}</h4>{select if len(chart['views']) > 1 else ''}"
        '<button class="reset" hidden>reset zoom</button></div><div class="plot"></div>'
        f'<div class="fits"></div><figcaption>{escape(chart["note"])}</figcaption></figure>'
    )


def _details(title: str, table: Table) -> str:
    if not table.rows:
        return ""
    return f"<details><summary>{escape(title)}</summary>{table.html()}</details>"


def _scenario(results: Results, scenario: RecordedScenario, drawn: Sequence[Json]) -> str:
    if not scenario.runs:
        return ""
    about = escape(str(scenario.meta.get("about", "")))
    prediction = scenario.meta.get("prediction")
    predicted = f"<p><b>Predicted:</b> {escape(str(prediction))}</p>" if prediction else ""
    name = escape(scenario.name)
    pairs = _details("All pairs", pairs_table(results, scenario))
    return (
        f'<section id="{name}"><h2>{name}: {escape(scenario.title)}</h2><p>{about}</p>{predicted}'
        f"{scenario_table(results, scenario).html()}"
        f'<div class="charts">{"".join(map(_chart, drawn))}</div>{_clips(results, scenario)}'
        f"{_details('Axes, components and learning signal', mechanism_table(results, scenario))}"
        f"{_details('Speed and early stopping', speed_table(results, scenario))}"
        f"{pairs if len(methods_of(results, scenario.name)) > 1 else ''}</section>"
    )


def _section(key: str, title: str, *parts: str) -> str:
    body = "".join(parts)
    return f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def _table(table: Table) -> str:
    return table.html() if table.rows else ""


def _facts(results: Results) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_inline(value)}</td></tr>"
        for name, value in facts(results)
    )
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def _legend(results: Results) -> str:
    suite = results.suite
    chips = "".join(
        f'<button class="chip" data-toggle="{i}" aria-pressed="true"><svg width="26" height="10">'
        f"<line/></svg>{escape(m)}</button>"
        for i, m in enumerate(suite.methods)
    )
    links = "".join(
        f'<a href="#{escape(s.name)}">{escape(s.name)}</a>' for s in suite.scenarios if s.runs
    )
    return f'<nav><div class="chips">{chips}</div><div class="links">{links}</div></nav>'


def _definitions(results: Results) -> str:
    lines = " ".join(definitions(results).split("\n")[2:]).split("- **")[1:]
    return "<ul>" + "".join(f"<li>{_inline('**' + line.strip())}</li>" for line in lines) + "</ul>"


def _data(results: Results, drawn: Sequence[Json]) -> str:
    suite = results.suite
    data = {
        "methods": list(suite.methods),
        "baseline": suite.baseline,
        "control": suite.control,
        "charts": list(drawn),
    }
    # "</" would end the script element.
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")


def report_page(results: Results) -> str:
    """The page as HTML."""
    suite = results.suite
    rooms = files("reelrl.zoo.benchmark.report")
    style, script = (rooms.joinpath(n).read_text(encoding="utf-8") for n in ("page.css", "page.js"))
    drawn = {s.name: charts(results, s) for s in suite.scenarios if s.runs}
    profile = profile_chart(results)
    every = [chart for group in drawn.values() for chart in group]
    title = f"{suite.name}: {suite.meta.get('title') or 'benchmark of advantage estimators'}"
    lines = "".join(f"<li>{_inline(line)}</li>" for line in headlines(results))
    body = [
        f"<header><p class=kicker>ReelRL benchmark</p><h1>{escape(title)}</h1>",
        f'<ul class="headlines">{lines}</ul>{_facts(results)}</header>',
        _legend(results),
        _section("missing", "Missing", _table(missing_table(suite))),
        _section("matrix", "Gold gain by scenario and method", _matrix(results)),
        _section("predicted", "Predicted against found", _table(predicted_table(results))),
        _section(
            "overall",
            "Over all scenarios",
            _table(overall_table(results)),
            f'<div class="charts">{_chart(profile)}</div>' if profile else "",
        ),
        _section(
            "equal",
            f"Against {suite.baseline} on equal terms",
            "<p>Difference of GOLD. A method that changes the model less may look safer. "
            "Methods are therefore also compared at equal proxy gain and at equal KL.</p>"
            if equal_terms_table(results).rows
            else "",
            _table(equal_terms_table(results)),
        ),
        _section("control", "Null control", _table(control_table(results))),
        _section("claims", "Claims of the literature", _table(claims_table(results))),
        *(_scenario(results, s, drawn.get(s.name, [])) for s in suite.scenarios),
        _section("best", "Without training: best of n",
                 _table(best_of_n_table(suite, results.split))),
        _section("reading", "How to read this", _definitions(results)),
    ]  # fmt: skip
    data = _data(results, [*every, *([profile] if profile else [])])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, or the browser asks a server for one.
        '<link rel="icon" href="data:,"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{''.join(body)}"
        f'<script type="application/json" id="data">{data}</script>'
        f"<script>{script}</script></body></html>\n"
    )
