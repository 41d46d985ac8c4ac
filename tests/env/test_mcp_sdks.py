"""The official MCP SDKs, as they come, over POST /mcp, which OpenEnv's own server cannot serve: against
an environment with a few tools, and against `sluice serve`. Run with both generations of the Python
SDK, and with the TypeScript SDK.
"""

import asyncio
import json
import os
import shutil
import subprocess

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from coding_rollouts import AGENTS, CALL, KEY, arguments
from node_sdks import node_with_sdks
from serving import HERE, Served
from upstream import Upstream


@pytest.fixture(scope="module")
def server():
    with Served("env_test_server") as served:
        yield served


@pytest.fixture(scope="module")
def coding_server(tmp_path_factory):
    with Served("sluice", "serve", "--port", 0, "--agents-dir", AGENTS, "--data",
                tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture(scope="module")
def rollout():
    """The arguments of one that earns its reward."""
    with Upstream("hello", key=KEY) as model:
        yield arguments(model, [CALL, {"run": "echo made > made.txt"}], task_id="t1",
                        verify=["grep -x made made.txt"])


def run(server, talk):
    async def connect():
        async with streamable_http_client(server.url + "/mcp") as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                hello = await session.initialize()
                await talk(session, hello)

    asyncio.run(asyncio.wait_for(connect(), 60))


def either(thing, snake, camel):
    return getattr(thing, snake) if hasattr(thing, snake) else getattr(thing, camel)


def test_a_session(server):
    async def talk(session, hello):
        assert either(hello, "server_info", "serverInfo").name == "tool_env"
        assert hello.capabilities.tools is not None
        await session.send_ping()
        tools = (await session.list_tools()).tools
        assert sorted(tool.name for tool in tools) == ["echo", "fail", "object", "wait"]
        result = await session.call_tool("echo", {"message": "hi", "times": 2})
        assert either(result, "is_error", "isError") is False
        assert result.content[0].text == "hihi"
        assert either(result, "structured_content", "structuredContent") == {"result": "hihi"}

    run(server, talk)


def test_failures_are_errors_that_name_the_cause(server):
    async def talk(session, _):
        for tool, arguments, said in (("fail", {"message": "boom"}, "boom"),
                                      ("nope", {}, "Unknown tool: 'nope'"),
                                      ("echo", {}, "Missing required argument")):
            with pytest.raises(Exception) as failed:
                await session.call_tool(tool, arguments)
            assert said in str(failed.value)

    run(server, talk)


def test_progress_reaches_whoever_asked(server):
    heard = []

    async def hear(progress, total, message):
        heard.append((progress, total, message))

    async def talk(session, _):
        result = await session.call_tool("wait", {"seconds": 0.3}, progress_callback=hear)
        assert result.content[0].text == "waited"

    run(server, talk)
    assert heard


def test_the_second_generations_client_negotiates(server):
    client = pytest.importorskip("mcp.client.client", reason="this SDK is of the first generation")

    async def talk():
        async with client.Client(server.url + "/mcp") as session:
            result = await session.call_tool("echo", {"message": "hi"})
            assert result.content[0].text == "hi"

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_a_rollout(coding_server, rollout):
    heard = []

    async def hear(progress, total, message):
        heard.append(message)

    async def talk(session, hello):
        assert either(hello, "server_info", "serverInfo").name == "coding_agent_env"
        assert [tool.name for tool in (await session.list_tools()).tools] == ["run_rollout"]
        result = await session.call_tool("run_rollout", rollout, progress_callback=hear)
        assert either(result, "is_error", "isError") is False
        told = json.loads(result.content[0].text)
        assert told["reward"] == 1.0 and told["task_id"] == "t1", told
        structured = either(result, "structured_content", "structuredContent")
        assert structured == {"result": result.content[0].text}
        with pytest.raises(Exception, match="unsupported agent 'nobody'"):
            await session.call_tool("run_rollout", {"agent": "nobody", "base_url": "http://x",
                                                    "api_key": "k", "model": "m"})

    run(coding_server, talk)
    assert "agent" in heard and "verify" in heard


def run_node(file, tmp_path, **variables):
    found = node_with_sdks()
    if found is None:
        pytest.skip("no npm: the Node SDKs cannot be installed")
    binary, packages = found
    shutil.copy(HERE / "node" / file, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    done = subprocess.run([binary, "--test", "--test-reporter=tap", file], cwd=tmp_path, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                          env={**os.environ, **variables}, check=False)
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout, done.stdout
    assert "# pass 0" not in done.stdout, done.stdout


def test_the_typescript_sdk(server, tmp_path):
    run_node("mcp.test.js", tmp_path, SERVER_URL=server.url)


def test_a_rollout_with_the_typescript_sdk(coding_server, rollout, tmp_path):
    run_node("rollout.test.js", tmp_path, SERVER_URL=coding_server.url, ROLLOUT=json.dumps(rollout))
