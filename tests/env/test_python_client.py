"""The typed client (python/coding_agent_env) against `sluice serve`, and on its own against servers
that break the protocol.
"""

import ast
import asyncio
import json
import subprocess
import sys
import threading

import pytest

from serving import SOURCE, Served
from upstream import Upstream

sys.path.insert(0, str(SOURCE / "python" / "coding_agent_env"))
from coding_agent_env import (CodingAgentEnv, CommandResult, RolloutResult, ServerError,  # noqa: E402
                              ToolError)

KEY = "sk-upstream-key-0123456789"
CALL = {"post": '{"model":"m","messages":[{"role":"user","content":"hi"}]}'}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


def serve(place, *flags, **more):
    return Served("sluice", "serve", "--port", 0, "--agents-dir", SOURCE / "tests/system/agents",
                  "--data", place / "data", *flags, **more)


@pytest.fixture(scope="module")
def server(place):
    with serve(place, "--max-sessions", 16) as served:
        yield served


@pytest.fixture(scope="module")
def model():
    with Upstream("hello", key=KEY) as made:
        yield made


def task(model, *steps, **more):
    return {"agent": "caller", "base_url": model.url, "api_key": KEY, "model": "m",
            "instruction": json.dumps([CALL, *steps]), **more}


def test_defect_01_the_typed_helper_works_asynchronously(server, model):
    async def run():
        async with CodingAgentEnv(server.url) as env:
            first = await env.reset(seed=1, episode_id="e1")
            assert first["metadata"]["status"] == "ready"
            result = await env.run_rollout(**task(model, verify=["echo out; true", "false"],
                                                  setup=["true"], task_id="t1"))
            return result, await env.state(), await env.list_tools()

    result, state, tools = asyncio.run(run())
    assert isinstance(result, RolloutResult) and result.reward == 0.5
    assert isinstance(result.verify_results[0], CommandResult)
    assert result.verify_results[0].stdout == "out\n" and result.setup_results[0].exit_code == 0
    assert result.proxy_turns[0].upstream_status == 200
    assert result.error is None and result.agent.startswith("caller")
    assert state.episode_id == "e1" and state.rollouts_completed == 1 and state.last_reward == 0.5
    assert [tool.name for tool in tools] == ["run_rollout"] and tools[0].input_schema["properties"]


def test_defect_01_the_typed_helper_works_synchronously(server, model):
    with CodingAgentEnv(server.url).sync() as env:
        env.reset()
        result = env.run_rollout(**task(model, verify=["true"]))
        assert result.reward == 1.0
        assert env.state().last_sandbox_id == result.sandbox_id


def test_failures_are_typed(server, model):
    with CodingAgentEnv(server.url).sync() as env:
        with pytest.raises(ToolError) as refused:
            env.run_rollout(instruction="x", agent="nobody")
        assert "unsupported agent 'nobody'" in refused.value.message
        result = env.run_rollout(**task(model, setup=["exit 3"], verify=["true"]))
        assert result.reward is None and result.error_kind == "task"


def test_finding_64_output_that_is_left_out_is_told(server, model):
    with CodingAgentEnv(server.url).sync() as env:
        result = env.run_rollout(**task(model, setup=["seq 2000"], 
                                        verify=["echo all", "head -c 2000 /dev/zero",
                                                "head -c 2001 /dev/zero >&2"]))
    assert result.setup_results[0].truncated and result.setup_results[0].stdout.endswith("2000\n")
    assert [row.truncated for row in result.verify_results] == [False, False, True]


def test_sessions_side_by_side(server, model):
    async def one(number):
        async with CodingAgentEnv(server.url) as env:
            result = await env.run_rollout(**task(model, verify=["true"], task_id=str(number)))
            return result.task_id, result.reward

    async def run():
        return await asyncio.gather(*(one(n) for n in range(8)))

    assert asyncio.run(run()) == [(str(n), 1.0) for n in range(8)]


def test_pings_keep_a_long_rollout_alive(server, model):
    with CodingAgentEnv(server.url, ping_interval_s=0.2).sync() as env:
        assert env.run_rollout(**task(model, {"sleep": 3}, verify=["true"])).reward == 1.0


def test_a_question_that_was_given_up_does_not_leave_its_answer_to_the_next(server, model):
    async def run():
        env = CodingAgentEnv(server.url, message_timeout_s=0.5)
        with pytest.raises(TimeoutError):
            await env.run_rollout(**task(model, {"sleep": 20}))
        state = await env.state()  # a session of its own
        await env.close()
        return state

    assert asyncio.run(run()).rollouts_completed == 0


def test_keys_are_sent(place):
    with serve(place, env={"SLUICE_KEYS": "a-key-of-some-length"}) as served:
        with pytest.raises(ConnectionError, match="401"):
            with CodingAgentEnv(served.url).sync() as env:
                env.reset()
        with CodingAgentEnv(served.url, key="a-key-of-some-length").sync() as env:
            env.reset()
        with CodingAgentEnv(served.url.replace("//", "//user:a-key-of-some-length@")).sync() as env:
            env.reset()


def test_a_full_server_is_a_server_error(place):
    with serve(place, "--max-sessions", 1) as served:
        with CodingAgentEnv(served.url).sync() as env:
            env.reset()
            with pytest.raises((ServerError, ConnectionError)) as refused:
                with CodingAgentEnv(served.url).sync() as other:
                    other.reset()
            assert "CAPACITY_REACHED" in str(refused.value) or "1000" in str(refused.value)


def imports_of(folder):
    """The packages that its sources import, anywhere in them; its own modules are "."."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add("." if node.level else node.module.split(".")[0])
    return names


def test_defect_16_finding_61_client_and_server_import_nothing_of_each_other():
    client, server = SOURCE / "python" / "coding_agent_env", SOURCE / "envs" / "coding_agent_env"
    of_client, of_server = imports_of(client / "coding_agent_env"), imports_of(server)
    assert "asyncio" in of_client and "os" in of_server
    assert of_client - sys.stdlib_module_names - {".", "coding_agent_env"} == set()
    assert "coding_agent_env" not in of_server
    # And what is there when they are imported.
    script = ("import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules);"
              "__import__(sys.argv[2]);"
              "print({name.split('.')[0] for name in set(sys.modules) - before} - "
              "sys.stdlib_module_names)")
    for folder, module in ((client, "coding_agent_env"), (server, "server.app")):
        done = subprocess.run([sys.executable, "-c", script, folder, module], capture_output=True,
                              text=True, check=True)
        assert done.stdout.strip() == repr({module.split(".")[0]})


@pytest.mark.parametrize("says", [
    b"", b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n", b"nonsense\r\n\r\n",
    b"\x00" * 100, b"HTTP/1.1 101 x\r\n" + b"x" * (2 << 20)])
def test_what_is_no_websocket_server_is_a_connection_error(says):
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        peer, _ = listener.accept()
        peer.recv(65536)
        try:
            peer.sendall(says)
        except OSError:
            pass
        peer.close()

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(ConnectionError):
        with CodingAgentEnv(f"127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=5).sync() as env:
            env.reset()
    listener.close()
