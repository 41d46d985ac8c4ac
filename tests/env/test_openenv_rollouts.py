"""Rollouts through OpenEnv's client, unmodified, against `sluice serve`: real agents, many at once, long
ones. Run with its newest version and with the oldest that has list_tools and call_tool.
"""

import asyncio
import concurrent.futures
import shutil

import pytest

from openenv.core.mcp_client import MCPToolClient

from coding_rollouts import (AGENTS, CALL, KEY, LIMITS, SCRIPTS, TASK, arguments, installed, rollouts,
                             warnings_of)
from openenv_clients import IS_ASYNC, client
from result_models import result_of
from serving import SLOW, Served, wait_for
from upstream import Upstream


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve")
    shutil.copytree(AGENTS, place / "agents")
    with Served("sluice", "serve", "--port", 0, "--agents-dir", place / "agents", "--data",
                place / "data", "--log", place / "log", "--max-sessions", 16) as served:
        yield served


@pytest.fixture(scope="module")
def upstream():
    with Upstream("hello", key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def opencode(server):
    installed(server, "opencode")


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_real_agents_earn_their_reward(server, agent):
    installed(server, agent)
    with (Upstream(*SCRIPTS[agent], key=KEY) as model,
          client(server.url, message_timeout_s=300) as env):
        env.reset(episode_id="e1")
        assert [tool.name for tool in env.list_tools()] == ["run_rollout"]
        result = result_of(env.call_tool("run_rollout", agent=agent, base_url=model.url,
                                         task_id="hello", setup=["echo ready"], **TASK))
        assert result.error is None, result.agent_log_tail
        assert result.reward == 1.0 and result.agent_exit_code == 0
        assert result.task_id == "hello" and result.mode == "black_box"
        assert [row.stdout for row in result.setup_results] == ["ready\n"]
        assert [(row.cmd, row.exit_code) for row in result.verify_results] == [
            (command, 0) for command in TASK["verify"]]
        assert result.files["/home/user/workdir/hello.py"] == "print('hello')\n"
        assert [turn.turn for turn in result.proxy_turns] == [1, 2]
        assert [turn.upstream_status for turn in result.proxy_turns] == [200, 200]
        assert env.state().episode_id == "e1"


@pytest.mark.skipif(not IS_ASYNC, reason="this version's client is synchronous")
def test_real_agents_earn_their_reward_asynchronously(server, opencode):
    async def one(number, model):
        async with MCPToolClient(base_url=server.url, message_timeout_s=300) as env:
            await env.reset(episode_id=f"a{number}")
            assert [tool.name for tool in await env.list_tools()] == ["run_rollout"]
            result = result_of(await env.call_tool("run_rollout", base_url=model.url,
                                                   task_id=str(number), **TASK))
            return (await env.state()).episode_id, result.task_id, result.reward, result.error

    async def both(model):
        return await asyncio.gather(one(0, model), one(1, model))

    with Upstream(*SCRIPTS["opencode"], key=KEY) as model:
        assert asyncio.run(both(model)) == [("a0", "0", 1.0, None), ("a1", "1", 1.0, None)]


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_defect_08_finding_33_parameters_reach_the_model(server, agent):
    installed(server, agent)
    with (Upstream(*SCRIPTS[agent], key=KEY) as model,
          client(server.url, message_timeout_s=300) as env):
        env.reset()
        result = result_of(env.call_tool("run_rollout", agent=agent, base_url=model.url,
                                         max_tokens_cap=1234, disable_thinking=True,
                                         top_logprobs=2, task_id=f"asked-{agent}", **TASK))
        assert result.reward == 1.0
        for body in model.requests:
            assert body[LIMITS[agent]] == 1234 and body["model"] == "m1"
            assert body["chat_template_kwargs"]["enable_thinking"] is False
            assert body["logprobs"] is True and body["top_logprobs"] == 2
        # What the model said of its answers is in the result.
        assert [turn.finish_reason for turn in result.proxy_turns] == ["tool_calls", "stop"]
        for turn in result.proxy_turns:
            assert turn.completion_tokens == ["to", "ken"]
            assert turn.per_token_logps == [-0.5, -0.25]
    row = next(row for row in rollouts(server, "ended") if row["task_id"] == f"asked-{agent}")
    assert warnings_of(server.fetch(f"/rollouts/{row['rollout_id']}")[1]["result"]) == []


class MeetingUpstream(Upstream):
    """Answers nobody before all are there: in turn they would never get so far."""

    def __init__(self, all_there, *script, **options):
        self.all_there, self.met = all_there, False
        super().__init__(*script, **options)

    def answer(self, request, body):
        if not self.met:
            wait_for(self.all_there, 600)
            self.met = True
        super().answer(request, body)


def test_eight_clients_at_once(server, opencode):
    def one(number):
        # Eight OpenCodes that start at once take their time on a busy machine.
        with client(server.url, message_timeout_s=1500) as env:
            env.reset(episode_id=f"e{number}")
            return result_of(env.call_tool("run_rollout", base_url=model.url, task_id=str(number),
                                           **TASK))

    with (MeetingUpstream(lambda: len(rollouts(server, "running")) == 8, *SCRIPTS["opencode"],
                          key=KEY) as model,
          concurrent.futures.ThreadPoolExecutor(8) as pool):
        results = list(pool.map(one, range(8)))
    assert [result.reward for result in results] == [1.0] * 8, results
    assert [result.task_id for result in results] == [str(number) for number in range(8)]
    assert len({result.sandbox_id for result in results}) == 8


def test_a_rollout_of_minutes_with_the_clients_own_pings(server, upstream):
    # A client whose ping after 20 s nobody answers closes after 40, and waits 10 for the server's end.
    seconds = 185 if SLOW else 55
    with client(server.url, message_timeout_s=300) as env:
        env.reset()
        result = result_of(env.call_tool("run_rollout", **arguments(
            upstream, [CALL, {"sleep": seconds}], agent_timeout_s=300, verify=["true"])))
        assert result.reward == 1.0 and result.wall_s >= seconds
