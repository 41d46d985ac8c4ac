"""OpenEnv's client, unmodified, against a server for any environment. Run with its newest version
and with the oldest that has list_tools and call_tool.
"""

import asyncio
import concurrent.futures
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from openenv.core.env_client import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.mcp_types import CallToolAction
from openenv.core.mcp_client import MCPToolClient

from openenv_clients import IS_ASYNC, client
from serving import BUILD, SOURCE, Served, wait_for

only_async = pytest.mark.skipif(not IS_ASYNC, reason="this version's client is synchronous")


@pytest.fixture(scope="module")
def server():
    with Served("env_test_server", "--sessions", 16) as served:
        yield served


def test_a_whole_session(server):
    with client(server.url) as env:
        first = env.reset(seed=3, episode_id="mine")
        assert first.done is False and first.reward is None
        assert sorted(tool.name for tool in env.list_tools()) == ["echo", "fail", "object", "wait"]
        echo = next(tool for tool in env.list_tools() if tool.name == "echo")
        assert echo.description == "Say it again."
        assert echo.input_schema["required"] == ["message"]
        assert env.call_tool("echo", message="hü", times=2) == "hühü"
        state = env.state()
        assert state.episode_id == "mine" and state.step_count == 2


def test_a_step_with_a_typed_action(server):
    with client(server.url) as env:
        env.reset()
        result = env.step(CallToolAction(tool_name="echo", arguments={"message": "x"}))
        assert result.observation.error is None and result.done is False
        assert result.observation.tool_name == "echo"


@pytest.mark.parametrize("tool, arguments, said, kind", [
    ("nope", {}, "Unknown tool: 'nope'", "tool_not_found"),
    ("fail", {"message": "boom"}, "boom", "execution_error"),
    ("echo", {"message": "a", "bogus": 1}, "Unexpected keyword argument", "invalid_args"),
    ("wait", {"seconds": "x"}, "Input should be a valid number", None),
])
def test_a_tool_that_fails_is_a_typed_error(server, tool, arguments, said, kind):
    with client(server.url) as env:
        env.reset()
        with pytest.raises(RuntimeError) as failed:
            env.call_tool(tool, **arguments)
        assert said in str(failed.value)
        if kind:
            assert f"(type: {kind})" in str(failed.value)
        assert env.call_tool("echo", message="still here") == "still here"


def test_eight_clients_at_once_do_not_wait_for_each_other(server):
    def one(number):
        with client(server.url) as env:
            env.reset(episode_id=f"e{number}")
            with pytest.raises(RuntimeError, match="cancelled while waiting"):
                env.call_tool("wait", seconds=30)
            assert env.call_tool("echo", message=str(number)) == str(number)
            return env.state().episode_id

    def running():
        return server.fetch("/rollouts?state=running")[1]["rollouts"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(one, number) for number in range(8)]
        # All eight are inside their step; none has to end for another to begin.
        wait_for(lambda: len(running()) == 8)
        for row in running():
            server.fetch(f"/rollouts/{row['rollout_id']}/cancel", {})
        assert [done.result() for done in clients] == [f"e{n}" for n in range(8)]


def test_a_full_server_says_so_in_the_clients_words():
    with Served("env_test_server", "--sessions", 1) as served:
        with client(served.url) as env:
            env.reset()
            # The error is sent and the connection closed at once, as OpenEnv's server does: the
            # client sees the one or the other first.
            with pytest.raises((RuntimeError, ConnectionClosed), match="CAPACITY_REACHED|1000"):
                with client(served.url) as other:
                    other.reset()
        with client(served.url) as env:  # its slot came back
            env.reset()


def test_the_servers_end_is_seen_as_the_end_of_the_connection():
    with Served("env_test_server") as served:
        code = None
        with pytest.raises((ConnectionClosed, RuntimeError)):
            with client(served.url) as env:
                env.reset()
                code = served.stop()[0]
                env.reset()
        assert code == 0


@only_async
def test_asynchronous_clients(server):
    async def one(number):
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset(episode_id=f"a{number}")
            await env.list_tools()
            assert await env.call_tool("echo", message="x", times=3) == "xxx"
            return (await env.state()).episode_id

    async def all_of_them():
        return await asyncio.gather(*(one(n) for n in range(8)))

    assert asyncio.run(all_of_them()) == [f"a{n}" for n in range(8)]


@only_async
def test_pings_are_answered_in_long_steps(server):
    # The client's own defaults are 20 s; shorter ones show the same sooner.
    import openenv.core.env_client as module

    plain = module.ws_connect

    def impatient(*args, **kwargs):
        return plain(*args, **{**kwargs, "ping_interval": 0.2, "ping_timeout": 0.5})

    async def run():
        async with MCPToolClient(base_url=server.url) as env:
            await env.reset()
            return await env.call_tool("wait", seconds=3)

    module.ws_connect = impatient
    try:
        assert asyncio.run(run()) == "waited"
    finally:
        module.ws_connect = plain


@only_async
def test_production_mode_uses_mcp_over_http(server):
    async def run():
        env = MCPToolClient(base_url=server.url)
        env.use_production_mode = True
        names = [tool.name for tool in await env.list_tools()]
        said = await env.call_tool("echo", message="over http")
        with pytest.raises(RuntimeError, match="Tool 'fail' failed: .*boom"):
            await env.call_tool("fail")
        await env.close()
        return names, said

    names, said = asyncio.run(run())
    assert "echo" in names
    assert said == "over http" or said.get("data") == "over http"


class EchoClient(EnvClient):
    """What users of environments with actions of their own write."""

    def _step_payload(self, action):
        return {"message": action}

    def _parse_result(self, payload):
        return StepResult(observation=payload["observation"], reward=payload.get("reward"),
                          done=payload.get("done", False))

    def _parse_state(self, payload):
        return payload


def test_the_echo_example():
    with Served("echo_environment", "0") as served:
        with client(served.url, cls=EchoClient) as env:
            assert env.reset().observation == {"metadata": {"status": "ready"}}
            result = env.step("hello")
            assert result.observation == {"echoed_message": "hello", "message_length": 5}
            assert result.reward == 0.5
            assert env.state()["step_count"] == 1
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                env.step("")


@pytest.mark.parametrize("program, arguments", [
    ("env_test_server", []), ("echo_environment", ["0"]),
    ("sluice", ["serve", "--port", "0", "--data", "DIRECTORY"])])
def test_openenvs_validator_passes_every_check(program, arguments, tmp_path):
    version = importlib.metadata.version("openenv-core")
    if version == "0.2.1":
        pytest.skip("this version's validator knows no --url")
    arguments = [str(tmp_path) if one == "DIRECTORY" else one for one in arguments]
    with Served(program, *arguments) as served:
        done = subprocess.run([Path(sys.executable).parent / "openenv", "validate", "--url", served.url],
                              capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True and report["mode"] == "simulation", report
    assert report["standard_profile"] == "openenv-http/1.x", report
    # Every check it has, those that it does not insist on among them.
    passed = [check["id"] for check in report["criteria"] if check["passed"]]
    assert len(passed) == len(report["criteria"]) == report["summary"]["total_count"], report
    assert passed == ["openapi_version_available", "health_endpoint", "metadata_endpoint",
                      "schema_endpoint", "mcp_endpoint", "mode_endpoint_consistency"], report


def test_openenvs_validator_passes_the_environments_folder():
    folder = SOURCE / "envs" / "coding_agent_env"
    openenv = Path(sys.executable).parent / "openenv"
    done = subprocess.run([openenv, "validate", str(folder)], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0 and "[OK]" in done.stdout, done.stdout + done.stderr


def test_the_environments_folder_starts_the_server(tmp_path):
    program = subprocess.Popen(
        [sys.executable, SOURCE / "envs/coding_agent_env/server/app.py", "--port", "0", "--data",
         str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        stderr=subprocess.DEVNULL, env={**os.environ, "SLUICE_BINARY": str(BUILD / "bin" / "sluice")})
    try:
        assert program.stdout.readline().startswith("listening on ")
    finally:
        program.terminate()
        assert program.wait(20) == 0
        program.stdout.close()
