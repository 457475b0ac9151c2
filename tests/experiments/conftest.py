"""Fixtures that tests of experiments share."""

import pytest

from experiments.app import run_folder


@pytest.fixture
def draw_only(monkeypatch):
    """A function that takes names of figures; after it is called, runs write no other PNG files.

    All charts are made and written into the report all the same: rasterizing is most of a small run.
    """
    draw = run_folder.draw

    def only(*names):
        def drawn(figure, path):
            assert figure.spec
            if figure.name in names:
                draw(figure, path)

        monkeypatch.setattr(run_folder, "draw", drawn)

    return only
