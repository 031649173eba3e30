# SPDX-License-Identifier: Apache-2.0
"""A self-contained HTML page: pieces that escape what they show, and the frame around them.

Every function that takes text escapes it; the ones that take finished markup say so by the type `Markup`.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NewType

from steepest.train.report.charts import AXES, FLOPS, Chart
from steepest.train.report.palette import CURVES, CURVES_DARK

Markup = NewType("Markup", str)


def text(value: object) -> Markup:
    """Return a value as text that HTML shows literally, in content and in quoted attributes."""
    return Markup(html.escape(str(value), quote=True))


def join(parts: Iterable[Markup]) -> Markup:
    """Return pieces one after the other."""
    return Markup("".join(parts))


def element(tag: str, content: Markup, **attributes: str) -> Markup:
    """Return `<tag ...>content</tag>`; attribute values are escaped, `class_` gives `class`."""
    listed = "".join(f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{listed}>{content}</{tag}>")


def section(title: str, *body: Markup) -> Markup:
    """Return a part of the page under a heading."""
    return element("section", join([element("h2", text(title)), *body]))


def paragraph(value: str, **attributes: str) -> Markup:
    """Return a paragraph of plain text."""
    return element("p", text(value), **attributes)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return a row of labelled numbers."""
    return element("dl", join(_fact(label, value) for label, value in pairs), class_="facts")


def _fact(label: str, value: str) -> Markup:
    return element("div", join([element("dt", text(label)), element("dd", text(value))]))


def table(head: Sequence[str], rows: Iterable[Sequence[str | Markup]], *, marked: int | None = None) -> Markup:
    """Return a table whose first column names the row and whose others are numbers.

    Args:
        head: Column titles.
        rows: Cells as text; escaped here.
        marked: Index of the row to set off, if any.

    Returns:
        The table inside a box that scrolls sideways on a narrow screen.
    """
    top = element("tr", join(element("th", text(cell), scope="col") for cell in head))
    body = []
    for index, row in enumerate(rows):
        cells = [element("th", text(row[0]), scope="row"), *(element("td", text(cell)) for cell in row[1:])]
        body.append(element("tr", join(cells), class_="marked") if index == marked else element("tr", join(cells)))
    whole = element("table", join([element("thead", top), element("tbody", join(body))]))
    return element("div", whole, class_="scroll", tabindex="0")


def bars(rows: Sequence[tuple[str, float, str]], *, marked: str | None = None) -> Markup:
    """Return horizontal bars from zero, one a row: (name, length at least 0, what is written at its end).

    Args:
        rows: The bars; the longest fills the width.
        marked: Name of the bar in the accent colour.

    Returns:
        A table that reads well without its style as well.
    """
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    lines = []
    for name, value, label in rows:
        bar = element("div", Markup(""), class_="bar", style=f"width:{100 * value / longest:.2f}%")
        cells = [element("th", text(name), scope="row"), element("td", bar), element("td", text(label))]
        lines.append(element("tr", join(cells), class_="marked" if name == marked else "plain"))
    return element("table", element("tbody", join(lines)), class_="bars")


def nested(values: Mapping[str, Any]) -> Markup:
    """Return a nested mapping as one small table a group, scalars of the top level first."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    groups = [("", plain)] if plain else []
    groups += [(key, value) for key, value in values.items() if isinstance(value, Mapping)]
    return element("div", join(_group(name, group) for name, group in groups), class_="groups")


def _group(name: str, values: Mapping[str, Any]) -> Markup:
    rows = [
        element("tr", join([element("th", text(key), scope="row"), element("td", text(shown(value)))]))
        for key, value in flatten(values).items()
    ]
    caption = element("caption", text(name)) if name else Markup("")
    return element("table", join([caption, element("tbody", join(rows))]), class_="pairs")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def shown(value: object) -> str:
    """Return a value of a configuration as a reader expects it: lists with commas, nothing as a dash."""
    if value is None or value in ("", [], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value)
    return str(value)


def axis_switch(axes: Mapping[str, tuple[str, str]] = AXES) -> Markup:
    """Return the buttons that switch the x-axis of every chart of the page.

    Args:
        axes: Which there are, as in `AXES`.
    """
    choices = [
        f'<label><input type="radio" name="axis" value="{text(key)}"{" checked" if not index else ""}>'
        f"<span>{text(label)}</span></label>"
        for index, (key, (label, _)) in enumerate(axes.items())
    ]
    legend = element("legend", text("x-axis"))
    return element("fieldset", join([legend, Markup("".join(choices))]), class_="axis")


def figures(charts: Sequence[Chart], first: int = 0) -> Markup:
    """Return the places into which the script draws; `first` counts the charts that stand earlier in the page."""
    places = []
    for index, chart in enumerate(charts, start=first):
        caption = element("figcaption", text(chart.title))
        body = paragraph("not measured", class_="absent") if chart.empty else Markup("")
        place = element("div", body, class_="chart", id=f"chart-{index}", role="img", aria_label=chart.title)
        places.append(element("figure", join([caption, place]), class_="tall" if chart.tall else "small"))
    return element("div", join(places), class_="figures")


def json_block(identifier: str, value: object) -> Markup:
    """Return data inside the page that no string in it can break out of.

    Args:
        identifier: The id by which the script finds it.
        value: Anything that JSON can hold; NaN and infinity are not.

    Returns:
        A script element of type `application/json`, with <, > and & written as escapes.

    Raises:
        ValueError: The value holds a NaN or an infinity.
    """
    safe = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        safe = safe.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{text(identifier)}">{safe}</script>')


def page(title: str, body: Iterable[Markup], charts: Sequence[Chart]) -> str:
    """Return a whole page: style, plotly and data inside, and a policy that forbids the browser any request.

    Args:
        title: Of the browser's tab.
        body: The sections, in order.
        charts: The charts, in the order in which `figures` placed them.

    Returns:
        One HTML document; nothing outside it is needed, and scripts other than its own two do not run.
    """
    from plotly.offline import get_plotlyjs

    data = {
        "axes": {key: title for key, (_, title) in (AXES | FLOPS).items()},
        "palette": {"light": CURVES, "dark": CURVES_DARK},
        "charts": [None if chart.empty else chart.to_json() for chart in charts],
    }
    package = resources.files("steepest.train.report")
    style = package.joinpath("report.css").read_text(encoding="utf-8")
    scripts = [get_plotlyjs(), package.joinpath("report.js").read_text(encoding="utf-8")] if charts else []
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {_hashes(scripts)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
        *body,
        "</main>",
        json_block("charts", data),
        *(f"<script>{script}</script>" for script in scripts),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _hashes(scripts: Iterable[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
