"""What the environment returns, as plain values.

Fields that a server does not send have their defaults; fields that this client does not know are
kept in `extra`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T", bound="_Model")


@dataclass
class _Model:
    @classmethod
    def from_dict(cls: type[T], values: dict[str, Any]) -> T:
        known = {row.name for row in dataclasses.fields(cls)} - {"extra"}
        made = cls(**{name: value for name, value in values.items() if name in known})
        if "extra" in {row.name for row in dataclasses.fields(cls)}:
            made.extra = {k: v for k, v in values.items() if k not in known}  # type: ignore[attr-defined]
        return made

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass
class CommandResult(_Model):
    """One setup or verify command. `exit_code` is None where it was killed or never ended;
    `truncated` says that it printed more than the end that is here."""

    cmd: str = ""
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration_s: float = 0.0
    ended: str = ""
    truncated: bool = False


@dataclass
class ProxyTurn(_Model):
    """One LLM call of the agent. Token ids are there only where they were captured."""

    turn: int = 0
    finish_reason: str | None = None
    completion_tokens: list[str] = field(default_factory=list)
    completion_token_ids: list[int] = field(default_factory=list)
    per_token_logps: list[float] = field(default_factory=list)
    latency_s: float = 0.0
    timestamp: float = 0.0
    upstream_status: int | None = None
    upstream_error: str | None = None


@dataclass
class RolloutResult(_Model):
    """What came of a rollout. `reward` is None where nothing was verified or where the attempt says
    nothing about the model; `error_kind` tells those apart ("infrastructure", "task", ...)."""

    task_id: str = ""
    sandbox_id: str = ""
    reward: float | None = None
    agent_exit_code: int | None = None
    wall_s: float = 0.0
    mode: str = "black_box"
    setup_results: list[CommandResult] = field(default_factory=list)
    verify_results: list[CommandResult] = field(default_factory=list)
    proxy_turns: list[ProxyTurn] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    files_extra: list[str] = field(default_factory=list)
    agent_log_tail: str = ""
    proxy_log_tail: str = ""
    error: str | None = None
    # Not sent by every server of this wire.
    error_kind: str | None = None
    reward_error: str | None = None
    rollout_id: str = ""
    agent: str = ""
    backend: str = ""
    warnings: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RolloutResult:
        made = super().from_dict(values)
        made.setup_results = [CommandResult.from_dict(row) for row in values.get("setup_results", [])]
        made.verify_results = [CommandResult.from_dict(row) for row in values.get("verify_results", [])]
        made.proxy_turns = [ProxyTurn.from_dict(row) for row in values.get("proxy_turns", [])]
        return made

    @classmethod
    def from_json(cls, text: str) -> RolloutResult:
        return cls.from_dict(json.loads(text))


@dataclass
class CodingAgentState(_Model):
    episode_id: str | None = None
    step_count: int = 0
    rollouts_completed: int = 0
    last_reward: float | None = None
    last_task_id: str | None = None
    last_sandbox_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
