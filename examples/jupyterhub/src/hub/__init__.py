"""The hub's configuration, and the proxy that there is while nobody's server has to be reached."""
