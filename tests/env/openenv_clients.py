"""OpenEnv's own client, as it comes from PyPI, under one face: its older versions are synchronous,
its newer ones asynchronous with a synchronous face.
"""

import inspect
from contextlib import contextmanager

from openenv.core.mcp_client import MCPToolClient

IS_ASYNC = inspect.iscoroutinefunction(MCPToolClient.call_tool)


@contextmanager
def client(url, cls=MCPToolClient, **options):
    made = cls(base_url=url, **options)
    if IS_ASYNC:
        made = made.sync()
    with made as env:
        yield env
