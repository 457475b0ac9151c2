"""The notebook's sliders in a browser: altair's JavaScript, and Python at its other end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.browser.test_page import says
from tests.browser.test_playground import TWO_DIGITS, log10, told
from tinygrad182.display.pages import in_script
from tinygrad182.inspect import live_sliders

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("anywidget")

NOTEBOOK = """<!DOCTYPE html><meta charset="utf-8"><div id="chart"></div>
<script type="module">
const state = {state}, heard = {{}};
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; }},
  on: (name, hear) => {{ heard[name] = hear; }},
  save_changes: async () => {{
    const answer = await python(state._params);
    if (!answer) return;
    state._params = answer;
    await heard["change:_params"]({{ changed: {{ _params: answer }} }});
  }},
}};
const code = new Blob([{code}], {{ type: "text/javascript" }});
const widget = (await import(URL.createObjectURL(code))).default;
await widget.render({{ model, el: document.getElementById("chart") }});
</script>"""
"""A notebook, as a widget sees it: a state that both sides set, and listeners for its changes."""

KEPT = ("spec", "embed_options", "debounce_wait", "max_wait", "_params", "_vl_selections")


def test_a_slider_that_is_dragged_moves_what_is_drawn(browser: Any, tmp_path: Path) -> None:
    model: Any = tg.nn.GRU(3, 4, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((12, 1, 3))
    widget = live_sliders(model, tg.tensor(x))
    moves: list[Any] = []

    def python(params: dict[str, Any]) -> Any:
        """Do as ipywidgets does: set the state, and answer with it if it differs from what came."""
        moves.append(params)
        widget._params = params
        return None if widget._params == params else widget._params

    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text))
    page.expose_function("python", python)
    out = tmp_path / "notebook.html"
    state = {name: getattr(widget, name) for name in KEPT}
    out.write_text(
        NOTEBOOK.format(state=in_script(state), code=in_script(widget._esm)), encoding="utf-8"
    )
    page.goto(out.as_uri())
    page.wait_for_selector("#chart svg")
    slider = page.locator("input[name=steps]")
    assert len(told(page, "‖∂L/∂hₜ‖")) == 12
    slider.press("ArrowLeft")
    page.locator("input[name=weights]").press("End")
    for _ in range(100):
        page.wait_for_timeout(100)  # Python answers meanwhile
        if (widget.params.weights, widget.params.steps) == (4, 11):
            break
    model.weight_hh_l0.assign(4 * model.weight_hh_l0.numpy())
    (flow,) = tg.inspect.gradient_flow(model(tg.tensor(x[:11]))[0][-1].sum()).values()
    says(page, widget.params.drawn["lines"][0])
    drawn = told(page, "‖∂L/∂hₜ‖")
    assert drawn.keys() == set(range(11))
    for t, text in drawn.items():
        assert abs(log10(text) - flow["h"].log10_grad_norm[t]) < TWO_DIGITS
    assert slider.evaluate("e => e === document.querySelector('input[name=steps]')")
    assert len(moves) < 20  # each side answers the other once
    assert not complaints
    context.close()
