"""Typed client of the OpenEnv coding agent environment."""

from .client import CodingAgentEnv, ServerError, SyncCodingAgentEnv, Tool, ToolError
from .models import CodingAgentState, CommandResult, ProxyTurn, RolloutResult

__all__ = [
    "CodingAgentEnv",
    "CodingAgentState",
    "CommandResult",
    "ProxyTurn",
    "RolloutResult",
    "ServerError",
    "SyncCodingAgentEnv",
    "Tool",
    "ToolError",
]
