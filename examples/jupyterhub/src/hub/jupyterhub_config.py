"""JupyterHub's configuration, given to it with --config. Read at each start: `get_config` is Jupyter's."""

import os

c = get_config()  # noqa: F821 -- Jupyter gives it to its configuration files

# Without it a hub that leaves ends everybody's server.
c.JupyterHub.cleanup_servers = False

if proxy := os.environ["HUB_PROXY_API"]:
    # The proxy is a service beside the hub. One that the hub started would end with it.
    c.ConfigurableHTTPProxy.api_url = proxy
    c.ConfigurableHTTPProxy.should_start = False
else:
    c.JupyterHub.proxy_class = "hub.alone.Alone"

# Put yours in its place: OAuth, LDAP, ... A KeyError stops a process without a password.
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.admin_password = os.environ["HUB_ADMIN_PASSWORD"]
# In both: an administrator who is not allowed may not sign in either.
c.Authenticator.admin_users = c.Authenticator.allowed_users = {"admin"}
