"""A Bokeh application: `bokeh serve` is given this directory, and runs main.py for each session."""
