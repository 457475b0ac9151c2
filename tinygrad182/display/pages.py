"""HTML pages with charts. Every text that users wrote is made safe here before it reaches a page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 (production 2), and so SVG, forbids."""


def legible(data: Any) -> Any:
    r"""Return JSON, such as a chart's specification, in which every text can be drawn.

    Pictures are drawn as SVG, and a character that XML forbids would end the whole process. Control
    characters become visible symbols. Lone surrogates and code points that are not characters become the
    replacement character.

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
    if isinstance(data, list):  # most often thousands of numbers
        return [x if type(x) in (float, int) else legible(x) for x in data]
    return data


def _stand_in(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def in_script(data: Any) -> str:
    r"""Return JSON that is safe inside a ``<script>``, whatever texts it holds.

    A browser looks for ``</script>`` and ``<!--`` before it reads the language inside, so the characters
    that begin them are written as JSON's escapes. All pages of the project use this function, the
    experiments' reports included.

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
    """Return any value as text that is safe between tags and in attributes.

    >>> text("<b> & 'h'")
    '&lt;b&gt; &amp; &#x27;h&#x27;'
    """
    return html.escape(legible(str(content)))


def prose(line: str) -> str:
    r"""Return a line as HTML, in which formulas between dollar signs are set as MathML.

    A subscript follows ``_`` and a superscript ``^``: one character, or several in braces. ``\$`` is a
    dollar sign.

    >>> prose("<the state $h_{t−1}$>")
    '&lt;the state <math><msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub></math>&gt;'
    """
    parts = re.split(r"(?<!\\)\$", line)
    return "".join(
        f"<math>{_set(part)}</math>"
        if i % 2 and i < len(parts) - 1
        else text(part.replace(r"\$", "$"))
        for i, part in enumerate(parts)
    )


_SYMBOL = re.compile(
    r"(?P<symbol>\d+|[a-z]{3,}|[^\W\d_]|[^\s])(?P<scripts>(?:[_^](?:\{[^}]*\}|\S))*)"
)


def _set(formula: str) -> str:
    """MathML of a formula without its ``<math>``."""
    found = []
    for match in _SYMBOL.finditer(formula):
        symbol = match["symbol"]
        tag = "mn" if symbol.isdigit() else "mi" if symbol.isalpha() or symbol == "∂" else "mo"
        fixed = ' stretchy="false"' if symbol in "|‖()[]" else ""
        markup = f"<{tag}{fixed}>{text(symbol)}</{tag}>"
        scripts = dict(re.findall(r"([_^])(\{[^}]*\}|\S)", match["scripts"]))
        below, above = (
            f"<mrow>{_set(scripts[kind].strip('{}'))}</mrow>" if kind in scripts else ""
            for kind in "_^"
        )
        kind = "msub" * bool(below) + "sup" * bool(above) if below else "msup"
        found.append(f"<{kind}>{markup}{below}{above}</{kind}>" if scripts else markup)
    return "".join(found)


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
    """Return a page with one Vega-Lite chart. It needs no network and may not use one.

    The chart is drawn as SVG, so that its text can be selected and read aloud.

    Parameters
    ----------
    title : str
        The title of the window.
    spec : dict
        The chart.
    library : str
        JavaScript that defines ``vegaEmbed``.
    themes : pair of dict
        Vega-Lite's ``config`` on white and on dark; the reader's system says which one is used.
    style : str
        CSS of the page.
    above, below : str
        HTML before and after the chart. The chart's sliders go into its element ``#controls``.
    then : str
        JavaScript that runs whenever the chart has been drawn; ``view`` is Vega's object of the chart.
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
