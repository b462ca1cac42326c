"""A wave and a slider. Bokeh runs this file anew for each session, whose state is in the memory of the process."""

import math

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import curdoc, figure

# Lists, and no arrays of numpy: with those BokehJS 3.9.2 cannot take up a new session after a handover (README.md).
x = [step / 20 for step in range(201)]


def wave(k: float) -> dict[str, list[float]]:
    return {"x": x, "y": [math.sin(k * at) for at in x]}


def draw(attribute: str, old: float, new: float) -> None:
    source.data = wave(new)


source = ColumnDataSource(data=wave(1))
plot = figure(height=300, width=600, title="sin(kx)")
plot.line("x", "y", source=source)
slider = Slider(title="k", start=1, end=5, step=0.1, value=1)
slider.on_change("value", draw)
curdoc().title = "Wave"
curdoc().add_root(column(slider, plot))
