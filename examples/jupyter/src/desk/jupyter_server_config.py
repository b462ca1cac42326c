"""Jupyter's configuration, given to it with --config. Read at each start: `get_config` is Jupyter's."""

import os
from pathlib import Path

notebooks = Path.home() / "notebooks"
notebooks.mkdir(exist_ok=True)

c = get_config()  # noqa: F821 -- Jupyter gives it to its configuration files
c.ServerApp.root_dir = str(notebooks)
c.ServerApp.open_browser = False
# nginx passes the browser's Host on; Jupyter would take loopback names alone. The token is what keeps others out.
c.ServerApp.allow_remote_access = True
# A KeyError stops a process without it; Jupyter would make a token for each process and write it to the log.
c.IdentityProvider.token = os.environ["JUPYTER_TOKEN"]
# The page's "Shut Down" would end a process that is started again at once.
c.ServerApp.quit_button = False
# A kernel that nobody used for an hour gives its memory back.
c.MappingKernelManager.cull_idle_timeout = 3600
# Extensions come with the lock file, not with a click: the virtualenv is root's.
c.LabApp.extension_manager = "readonly"
