"""The result of run_rollout as OpenEnv's own users read it: pydantic models of the fields that both of
its environments know, and its client's way to the text of a tool's answer.
"""

import json

from pydantic import BaseModel


class CommandResult(BaseModel):
    cmd: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration_s: float = 0.0


class RolloutTurn(BaseModel):
    turn: int
    finish_reason: str | None = None
    completion_tokens: list[str] = []
    completion_token_ids: list[int] = []
    per_token_logps: list[float] = []
    latency_s: float = 0.0
    timestamp: float = 0.0
    upstream_status: int | None = None
    upstream_error: str | None = None


class RolloutResult(BaseModel):
    task_id: str = ""
    sandbox_id: str = ""
    reward: float | None = None
    agent_exit_code: int | None = None
    wall_s: float = 0.0
    mode: str = "black_box"
    setup_results: list[CommandResult] = []
    verify_results: list[CommandResult] = []
    proxy_turns: list[RolloutTurn] = []
    files: dict[str, str] = {}
    files_extra: list[str] = []
    agent_log_tail: str = ""
    proxy_log_tail: str = ""
    error: str | None = None


def text_of(raw):
    if isinstance(raw, str):
        return raw
    result = getattr(raw, "result", None)
    if result is not None and getattr(result, "content", None):
        return result.content[0].text
    if isinstance(raw, dict):
        content = raw.get("content") or (raw.get("result") or {}).get("content")
        if content:
            return content[0]["text"]
    return json.dumps(raw)


def result_of(raw):
    return RolloutResult.model_validate_json(text_of(raw))
