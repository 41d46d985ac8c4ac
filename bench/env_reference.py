"""What bench/env compares with: OpenEnv's own server, with an environment of the same content as
sluice/env/testing.h. Run by uvicorn, as OpenEnv's environments are.
"""

import asyncio
import uuid
from typing import List, Optional

from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Observation, State


class ToolEnv(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        mcp = FastMCP("tool_env")

        @mcp.tool
        def echo(message: str, times: int = 1, loud: Optional[bool] = None,
                 tags: Optional[List[str]] = None, ratio: float = 1.0) -> str:
            """Say it again."""
            return (message.upper() if loud else message) * times

        @mcp.tool
        def fail(message: str = "boom") -> str:
            """Fail."""
            raise ValueError(message)

        @mcp.tool
        async def wait(seconds: float = 1.0) -> str:
            """Wait."""
            await asyncio.sleep(seconds)
            return "waited"

        super().__init__(mcp)
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)

    def reset(self, seed=None, episode_id=None, **_):
        self._state = State(episode_id=episode_id or str(uuid.uuid4()), step_count=0)
        return Observation(done=False, reward=None, metadata={"status": "ready"})

    def _step_impl(self, action, timeout_s=None, **_):
        return Observation(done=False, reward=None)

    @property
    def state(self):
        return self._state


app = create_fastapi_app(ToolEnv, CallToolAction, CallToolObservation, max_concurrent_envs=16)
