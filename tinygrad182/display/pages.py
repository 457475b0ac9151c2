"""Pages with charts on them: what a person wrote reaches a page or a picture through here alone."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold (XML 1.0, production 2), so that no SVG can."""


def legible(data: Any) -> Any:
    r"""A chart's specification, or any other JSON, whose texts hold nothing that cannot be drawn.

    Pictures are drawn as SVG, and a character that XML forbids would end the whole process. Control
    characters become their pictures; lone surrogates and what is not a character become the replacement
    character.

    Examples
    --------
    >>> from tinygrad182.display.pages import legible
    >>> legible({"form\x0cfeed": ["a\x00b", 1, "\ufffe\udc80", "tab\t"]})
    {'form␌feed': ['a␀b', 1, '��', 'tab\t']}
    """
    if isinstance(data, str):
        return _NOT_XML.sub(_stand_in, data)
    if isinstance(data, dict):
        return {legible(key): legible(value) for key, value in data.items()}
    if isinstance(data, list):  # of numbers, most often: thousands
        return [value if type(value) in _NUMBERS else legible(value) for value in data]
    return data


_NUMBERS = frozenset((float, int))


def _stand_in(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def in_script(data: Any) -> str:
    r"""JSON that can stand in a ``<script>``, whatever texts are in it.

    A browser reads ``</script>`` and ``<!--`` before it reads the language inside, so the characters that
    begin them are written as JSON's escapes. All pages of the project use this, the experiments' reports
    included.

    Examples
    --------
    >>> from tinygrad182.display.pages import in_script
    >>> print(in_script(["</script>", 1]))
    ["\u003c/script\u003e",1]
    """
    written = json.dumps(data, separators=(",", ":"))  # U+2028 and U+2029 come out escaped
    for character in "<>&'":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def text(content: Any) -> str:
    """Anything as text that can stand between tags and in attributes, whatever characters are in it.

    >>> text("<b> & 'h'")
    '&lt;b&gt; &amp; &#x27;h&#x27;'
    """
    return html.escape(legible(str(content)))


def chart_page(
    title: str,
    spec: dict[str, Any],
    library: str,
    themes: Sequence[dict[str, Any]] = ({}, {}),
    style: str = "",
    above: str = "",
    below: str = "",
    then: str = "",
) -> str:
    """A page with one Vega-Lite chart, which needs no network and may not use any.

    The chart is drawn as SVG, so that its text can be selected and read out.

    Parameters
    ----------
    title : str
        The title of the window.
    spec : dict
        The chart.
    library : str
        JavaScript that defines ``vegaEmbed``.
    themes : pair of dict
        Vega-Lite's ``config`` on white and on dark, chosen by what the reader's system prefers.
    style : str
        CSS of the page.
    above, below : str
        HTML before and behind the chart. An element ``#controls`` in it gets the chart's sliders.
    then : str
        JavaScript that is run whenever the chart has been drawn; Vega's object of it is ``view``.
    """
    return _PAGE.format(
        title=text(title),
        library=library,
        spec=in_script(spec),
        themes=in_script(list(themes)),
        style=style,
        above=above,
        below=below,
        then=then,
    )


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{above}
<div id="chart"></div>
{below}
<script>{library}</script>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => vegaEmbed("#chart", {spec}, {{ mode: "vega-lite", renderer: "svg", actions: false, \
bind: "#controls", config: {themes}[+dark.matches] }}).then(({{ view }}) => {{ {then} }});
dark.onchange = draw;
draw();
</script>
</body>
</html>
"""
