"""A wave and a slider. Bokeh runs this file anew for each session, whose state is in the memory of the process."""

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import curdoc, figure

x = np.linspace(0, 10, 200)
source = ColumnDataSource(data={"x": x, "y": np.sin(x)})
plot = figure(height=300, width=600, title="sin(kx)")
plot.line("x", "y", source=source)
slider = Slider(title="k", start=1, end=5, step=0.1, value=1)


def draw(attribute: str, old: float, new: float) -> None:
    source.data = {"x": x, "y": np.sin(new * x)}


slider.on_change("value", draw)
curdoc().title = "Wave"
curdoc().add_root(column(slider, plot))
