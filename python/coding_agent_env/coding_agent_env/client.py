"""CodingAgentEnv: one session with the environment, over its WebSocket, one frame for one frame."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Coroutine, Sequence, TypeVar

from ._websocket import WebSocket
from .models import CodingAgentState, RolloutResult

T = TypeVar("T")


class ServerError(RuntimeError):
    """The server answered with an error frame; `code` as in "CAPACITY_REACHED"."""

    def __init__(self, message: str, code: str):
        super().__init__(f"{message} (code: {code})")
        self.code = code


class ToolError(RuntimeError):
    """A tool refused its arguments or failed; `error_type` as in "invalid_args"."""

    def __init__(self, tool: str, message: str, error_type: str):
        super().__init__(f"tool {tool!r} failed: {message} (type: {error_type})")
        self.message, self.error_type = message, error_type


@dataclass
class Tool:
    name: str
    description: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)


class CodingAgentEnv:
    """A session: `async with CodingAgentEnv(url) as env: ...`, or `with CodingAgentEnv(url).sync()`.

    `message_timeout_s` bounds the wait for an answer. Without it a call waits as long as the server
    answers pings: rollouts take minutes, and the server bounds them.
    """

    def __init__(self, base_url: str, *, key: str | None = None, connect_timeout_s: float = 10.0,
                 message_timeout_s: float | None = None, ping_interval_s: float = 20.0):
        self._url, self._headers = _address(base_url, key)
        self._connect_timeout_s = connect_timeout_s
        self._message_timeout_s = message_timeout_s
        self._ping_interval_s = ping_interval_s
        self._socket: WebSocket | None = None
        self._turn: asyncio.Lock | None = None

    def sync(self) -> SyncCodingAgentEnv:
        """The same session for code that is not asynchronous."""
        return SyncCodingAgentEnv(self)

    async def connect(self) -> CodingAgentEnv:
        if self._socket is None:
            self._socket = await WebSocket.connect(self._url, self._headers, self._connect_timeout_s,
                                                   self._ping_interval_s)
            self._turn = asyncio.Lock()
        return self

    async def close(self) -> None:
        """Ends the session; a rollout that still runs is cancelled by the server."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            await socket.send(json.dumps({"type": "close"}))
        except ConnectionError:
            pass
        await socket.close()

    async def __aenter__(self) -> CodingAgentEnv:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def reset(self, *, seed: int | None = None, episode_id: str | None = None) -> dict[str, Any]:
        """Begins a new episode: what the environment says to that, as its status."""
        given = {"seed": seed, "episode_id": episode_id}
        answer = await self._ask({"type": "reset",
                                  "data": {k: v for k, v in given.items() if v is not None}})
        return dict(answer.get("observation") or {})

    async def state(self) -> CodingAgentState:
        return CodingAgentState.from_dict(await self._ask({"type": "state"}))

    async def list_tools(self) -> list[Tool]:
        answer = await self._ask({"type": "step", "data": {"type": "list_tools"}})
        return [Tool(row["name"], row.get("description") or "",
                     row.get("input_schema") or row.get("inputSchema") or {})
                for row in answer["observation"]["tools"]]

    async def call_tool(self, name: str, /, **arguments: Any) -> Any:
        answer = await self._ask({"type": "step", "data": {
            "type": "call_tool", "tool_name": name, "arguments": arguments}})
        observation = answer["observation"]
        if error := observation.get("error"):
            raise ToolError(name, error.get("message", ""), error.get("error_type", ""))
        return _content(observation.get("result"))

    async def run_rollout(self, *, instruction: str, agent: str = "opencode", endpoint: str = "",
                          base_url: str = "", api_key: str = "", model: str = "",
                          setup: Sequence[str] | None = None, verify: Sequence[str] | None = None,
                          task_id: str = "", mode: str = "black_box",
                          disable_thinking: bool | None = None, max_tokens_cap: int = 4096,
                          top_logprobs: int | None = None, agent_timeout_s: float = 600.0,
                          template: str = "") -> RolloutResult:
        """Runs one coding agent on one task, to its verified end.

        The model is named by `endpoint` ("vllm", "openai", "hf_router"), or by `base_url`, `api_key`
        and `model`; with mode "interception_gate" by none: a trainer answers. `setup` commands run
        before the agent, `verify` commands when everything it started is dead; each has a shell of
        its own. `top_logprobs` are asked of the model where a number is given, and come back in the
        result's `proxy_turns`.
        """
        asked = {} if top_logprobs is None else {"top_logprobs": top_logprobs}
        text = await self.call_tool(
            "run_rollout", agent=agent, endpoint=endpoint, base_url=base_url, api_key=api_key,
            model=model, instruction=instruction, setup=None if setup is None else list(setup),
            verify=None if verify is None else list(verify), task_id=task_id, mode=mode,
            disable_thinking=disable_thinking, max_tokens_cap=max_tokens_cap,
            agent_timeout_s=agent_timeout_s, template=template, **asked)
        return RolloutResult.from_json(text)

    async def _ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        await self.connect()
        assert self._socket is not None and self._turn is not None
        async with self._turn:  # one frame for one frame
            socket = self._socket
            try:
                await socket.send(json.dumps(frame))
                reply = json.loads(await socket.receive(self._message_timeout_s))
            except (TimeoutError, asyncio.CancelledError):
                # A late answer would be taken for that to the next question.
                self._socket = None
                await socket.close()
                raise
        data = reply.get("data") or {}
        if reply.get("type") == "error":
            raise ServerError(data.get("message", "unknown error"), data.get("code", "UNKNOWN"))
        return data


def _address(base_url: str, key: str | None) -> tuple[str, dict[str, str]]:
    if "://" not in base_url:
        base_url = "http://" + base_url
    parts = urllib.parse.urlsplit(base_url)
    scheme = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"{parts.scheme}: a base_url begins with http, https, ws or wss")
    headers = {}
    user, at, host = parts.netloc.rpartition("@")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    elif at:
        headers["Authorization"] = "Basic " + base64.b64encode(
            urllib.parse.unquote(user).encode()).decode()
    path = parts.path.rstrip("/") + "/ws"
    return urllib.parse.urlunsplit((scheme, host, path, "", "")), headers


def _content(result: Any) -> Any:
    """A tool's answer: the data of FastMCP's result, else its text, else what there is."""
    if isinstance(result, dict):
        if "data" in result:
            return result["data"]
        for part in result.get("content") or []:
            if isinstance(part, dict) and "text" in part:
                return part["text"]
    return result


class SyncCodingAgentEnv:
    """A session for code that is not asynchronous, on an event loop in a thread of its own."""

    def __init__(self, env: CodingAgentEnv):
        self._env = env
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True,
                                        name="coding_agent_env")
        self._thread.start()

    def _run(self, task: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            task.close()
            raise RuntimeError("this session is closed")
        future = asyncio.run_coroutine_threadsafe(task, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def connect(self) -> SyncCodingAgentEnv:
        self._run(self._env.connect())
        return self

    def close(self) -> None:
        if self._loop.is_closed():
            return
        try:
            self._run(self._env.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> SyncCodingAgentEnv:
        try:
            return self.connect()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, *, seed: int | None = None, episode_id: str | None = None) -> dict[str, Any]:
        return self._run(self._env.reset(seed=seed, episode_id=episode_id))

    def state(self) -> CodingAgentState:
        return self._run(self._env.state())

    def list_tools(self) -> list[Tool]:
        return self._run(self._env.list_tools())

    def call_tool(self, name: str, /, **arguments: Any) -> Any:
        return self._run(self._env.call_tool(name, **arguments))

    def run_rollout(self, **arguments: Any) -> RolloutResult:
        """As CodingAgentEnv.run_rollout."""
        return self._run(self._env.run_rollout(**arguments))
