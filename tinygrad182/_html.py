"""Pages with charts on them: what a person wrote reaches a page through here alone."""

from __future__ import annotations

import html
import json
from typing import Any


def in_script(data: Any) -> str:
    r"""JSON that can stand in a ``<script>``, whatever texts are in it.

    A browser reads ``</script>`` and ``<!--`` before it reads the language inside, so the characters that
    begin them are written as JSON's escapes. All pages of the project use this, the experiments' reports
    included.

    Examples
    --------
    >>> from tinygrad182._html import in_script
    >>> print(in_script(["</script>", 1]))
    ["\u003c/script\u003e", 1]
    """
    text = json.dumps(data)  # U+2028 and U+2029 come out escaped
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def chart_page(title: str, spec: dict[str, Any], library: str) -> str:
    """A page with one Vega-Lite chart, which needs no network and may not use any.

    Parameters
    ----------
    title : str
        Of the window.
    spec : dict
        The chart.
    library : str
        JavaScript that defines ``vegaEmbed``.
    """
    return _PAGE.format(title=html.escape(title), library=library, spec=in_script(spec))


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
</head>
<body>
<div id="chart"></div>
<script>{library}</script>
<script>
vegaEmbed("#chart", {spec}, {{ mode: "vega-lite", actions: false }});
</script>
</body>
</html>
"""
