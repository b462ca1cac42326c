"""The controller's part of deploy_lock: which run it is."""

from ansible_collections.eyewall.tornado.plugins.plugin_utils.this_run import LockingAction


class ActionModule(LockingAction):
    pass
