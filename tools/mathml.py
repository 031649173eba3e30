# SPDX-License-Identifier: Apache-2.0
"""Turn the formulas of the pages into MathML when they are built: readers need no script and no network for them."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page, as `pymdownx.arithmatex` marks it.

    Args:
        content: The page's HTML.

    Returns:
        The page with `<math>` elements.
    """
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match.group(2) == "[" else "inline"
    return convert(html.unescape(match.group(3)), display=display)
