"""The coding environment as its users meet it: `sluice serve` and the wire of run_rollout, with an
agent that does what it is told, and with real ones where a trainer answers. What OpenEnv's clients
make of it is in test_openenv_rollouts.py.
"""

import base64
import concurrent.futures
import contextlib
import json
import pathlib
import re
import shutil
import socket
import threading
import time
import urllib.request

import pytest

from coding_rollouts import (AGENTS, CALL, KEY, LIMITS, SCRIPTS, TASK, arguments, call, installed,
                             rollouts, warnings_of)
from openenv_clients import client
from serving import HERE, Served, wait_for
from upstream import Upstream

FIELDS = ["task_id", "sandbox_id", "reward", "agent_exit_code", "wall_s", "mode", "setup_results",
          "verify_results", "proxy_turns", "files", "files_extra", "agent_log_tail",
          "proxy_log_tail", "error"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def upstream():
    with Upstream("hello", key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def server(place):
    agents = place / "agents"
    shutil.copytree(AGENTS, agents)
    with Served("sluice", "serve", "--port", 0, "--agents-dir", agents, "--data", place / "data",
                "--log", place / "log", "--max-sessions", 16) as served:
        yield served


# --- documents ------------------------------------------------------------------------------------


def golden(name):
    return json.loads((HERE / "golden" / name).read_text())


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def test_the_tool_is_the_golden_one(server):
    ours, = server.rpc("tools/list")["result"]["tools"]
    theirs, = golden("tools_list.json")["result"]["tools"]
    theirs = {key: value for key, value in theirs.items() if value is not None}
    # What it says of itself is our own, and the type of its result needs no words.
    assert isinstance(ours.pop("description"), str) and theirs.pop("description")
    assert theirs["outputSchema"].pop("description")
    assert ours == theirs


def test_the_schema_is_the_golden_one(server):
    assert server.fetch("/schema") == (200, golden("schema.json"))


def test_openapi_has_the_golden_paths(server):
    status, ours = server.fetch("/openapi.json")
    theirs = golden("openapi.json")
    assert status == 200 and ours["info"]["version"] == "1.0.0"
    for path, methods in theirs["paths"].items():
        for method, operation in methods.items():
            assert without_nulls(ours["paths"][path][method]) == without_nulls(operation), path
    for name, schema in theirs["components"]["schemas"].items():
        assert without_nulls(ours["components"]["schemas"][name]) == without_nulls(schema), name


def test_metadata_names_what_there_is(server):
    status, metadata = server.fetch("/metadata")
    assert status == 200
    assert metadata["name"] == "CodingAgentEnvironment"
    assert metadata["description"] == "CodingAgentEnvironment environment"
    assert {"caller", "opencode"} <= set(metadata["agents"])
    assert [row["kind"] for row in metadata["endpoints"]] == ["vllm", "openai", "hf_router"]
    assert metadata["backend"] == "local"


# --- arguments ------------------------------------------------------------------------------------


def test_mistakes_are_told_in_order_and_in_openenvs_words(server):
    names = tuple(server.fetch("/metadata")[1]["agents"])
    kinds = "('vllm', 'openai', 'hf_router')"
    whole = {"base_url": "http://x/v1", "api_key": "k", "model": "m"}
    rows = [
        ({"endpoint": "bogus", "agent": "x"},
         f"unknown endpoint kind: 'bogus'; expected one of {kinds}"),
        ({"endpoint": "vllm"}, "vllm: no base_url (set VLLM_URL env var or pass base_url=...)"),
        ({"endpoint": "openai", "agent": "x"},
         "openai: no api_key (set OPENAI_API_KEY env var or pass api_key=...)"),
        ({"agent": "x"}, f"unsupported agent 'x'; supported agents: {names}"),
        ({"agent": "../../etc/passwd"}, "unsupported agent '../../etc/passwd'"),
        # Nothing at all is the default, blanks are a name.
        ({"agent": "  ", **whole, "instruction": "x"}, "unsupported agent ''; supported agents: "),
        ({"agent": " opencode "}, f"must provide either ``endpoint`` (one of {kinds}) or all of "
                                  "base_url + api_key + model"),
        ({"agent": "", "base_url": "http://x"}, "must provide either ``endpoint``"),
        (whole, "instruction is required"),
        ({**whole, "mode": "zzz"}, "instruction is required"),
    ]
    for given, said in rows:
        assert call(server, given).startswith(f"Error calling tool 'run_rollout': {said}"), given


def test_arguments_are_coerced_as_pydantic_does(server, upstream):
    given = arguments(upstream, max_tokens_cap="12", top_logprobs="5", agent_timeout_s="30",
                      disable_thinking="no", verify=["true"])
    assert call(server, given)["reward"] == 1.0
    assert "Input should be a valid integer, unable to parse string as an integer" in call(
        server, {**given, "max_tokens_cap": "abc"})
    assert "Input should be a valid list" in call(server, {**given, "setup": "x"})
    assert "Unexpected keyword argument" in call(server, {**given, "bogus": 1})
    # The same mistakes as steps, with the types that OpenEnv finds in such texts.
    frames = Frames(server)
    for wrong, kind, said in (
            ({"setup": "x"}, "execution_error", "Input should be a valid list"),
            ({"bogus": 1}, "invalid_args", "Unexpected keyword argument")):
        observation = frames.ask({"type": "step", "data": {
            "tool_name": "run_rollout", "arguments": {**given, **wrong}}})["data"]["observation"]
        assert observation["result"] is None and observation["error"]["error_type"] == kind
        assert observation["error"]["message"].startswith("1 validation error for call[run_rollout]")
        assert said in observation["error"]["message"]
    frames.close()


def test_endpoints_come_from_the_servers_environment(place, upstream):
    with Served("sluice", "serve", "--port", 0, "--agents-dir", AGENTS, "--data", place / "data",
                env={"VLLM_URL": upstream.url.removesuffix("/v1") + "/", "VLLM_API_KEY": KEY,
                     "VLLM_MODEL": "the-variables-model"}) as it:
        rows = {row["kind"]: row for row in it.fetch("/metadata")[1]["endpoints"]}
        assert rows["vllm"]["configured"] is True
        given = {"agent": "caller", "endpoint": "vllm", "verify": ["true"],
                 "instruction": json.dumps([CALL])}
        result = call(it, given)
        assert result["reward"] == 1.0 and warnings_of(result) == []
        # The catalog switches thinking off for vLLM, unless the client says otherwise.
        assert upstream.requests[-1]["chat_template_kwargs"] == {"enable_thinking": False}
        rollout = it.fetch(f"/rollouts/{result['rollout_id']}")[1]
        assert rollout["model"] == "the-variables-model"
        assert call(it, {**given, "disable_thinking": False})["reward"] == 1.0
        assert "chat_template_kwargs" not in upstream.requests[-1]


# --- results --------------------------------------------------------------------------------------


def test_a_result_has_every_field_in_order(server, upstream):
    given = arguments(
        upstream, [CALL, {"run": "echo made > made.txt"}], task_id="t1",
        setup=["echo one", "echo two >&2"], verify=["test -f made.txt", "false"])
    text = server.rpc("tools/call", {"name": "run_rollout", "arguments": given})["result"]["data"]
    result = json.loads(text)
    assert list(result)[:len(FIELDS)] == FIELDS
    for row in result["setup_results"] + result["verify_results"]:
        assert list(row)[:5] == ["cmd", "exit_code", "stdout", "stderr", "duration_s"]
        assert row["ended"] == f"exit code {row['exit_code']}"
    # Times have three digits.
    for name, times in (("wall_s", 1), ("duration_s", 4)):
        written = re.findall(rf'"{name}":([^,}}]+)', text)
        assert len(written) == times
        assert all(re.fullmatch(r"\d+\.\d{1,3}", one) for one in written), written
    assert result["error"] is None and result["error_kind"] is None
    assert result["task_id"] == "t1" and result["mode"] == "black_box"
    assert result["reward"] == 0.5 and result["agent_exit_code"] == 0
    assert [row["stdout"] for row in result["setup_results"]] == ["one\n", ""]
    assert result["setup_results"][1]["stderr"] == "two\n"
    assert [row["exit_code"] for row in result["verify_results"]] == [0, 1]
    assert result["files"]["/home/user/workdir/made.txt"] == "made\n"
    turn, = result["proxy_turns"]
    assert list(turn)[:9] == ["turn", "finish_reason", "completion_tokens", "completion_token_ids",
                              "per_token_logps", "latency_s", "timestamp", "upstream_status",
                              "upstream_error"]
    assert turn["turn"] == 1 and turn["completion_token_ids"] == turn["per_token_logps"] == []
    assert 0 < turn["latency_s"] < result["wall_s"] and turn["timestamp"] > 1.7e9
    assert turn["upstream_status"] == 200 and turn["upstream_error"] is None
    assert result["proxy_log_tail"].startswith("call 1: delivered")


def test_files_and_output_are_bounded_as_clients_expect(server, upstream):
    make = ("mkdir -p a/b; echo deep > a/b/deep; echo here > a/here; head -c 70000 /dev/zero > huge;"
            "head -c 9000 /dev/zero | tr '\\0' x > long")
    result = call(server, arguments(upstream, [CALL, {"run": make}], verify=[
        "seq 1000; seq 2000 >&2", "false", "echo after; ls a/b"]))
    workdir = "/home/user/workdir/"
    assert result["files"][workdir + "a/here"] == "here\n"
    assert result["files"][workdir + "long"] == "x" * 8000
    # What is too large is at least named.
    assert set(result["files"]) == {workdir + "a/here", workdir + "long"}
    assert result["files_extra"] == [workdir + "huge"]
    rows = result["verify_results"]
    assert [row["exit_code"] for row in rows] == [0, 1, 0] and rows[2]["stdout"] == "after\ndeep\n"
    assert rows[0]["stdout"] == "".join(f"{n}\n" for n in range(1, 1001))[-2000:]
    assert rows[0]["stderr"] == "".join(f"{n}\n" for n in range(1, 2001))[-2000:]
    assert [row.get("truncated", False) for row in rows] == [True, False, False]
    assert result["reward"] == pytest.approx(2 / 3)
    result = call(server, arguments(upstream, [CALL, {"run": "touch $(seq 100)"}], verify=["true"]))
    assert len(result["files"]) == 32 and len(result["files_extra"]) <= 68
    result = call(server, arguments(upstream, [CALL, {"run": "seq 5000; echo the end"}]))
    assert len(result["agent_log_tail"]) == 2000
    assert result["agent_log_tail"].endswith('the end\\n", "stderr": ""}\n')


def test_defect_10_finding_27_a_failed_setup_keeps_its_results(server, upstream):
    result = call(server, arguments(upstream, setup=["true", "echo why >&2; exit 3", "true"],
                                    verify=["true"]))
    assert [row["exit_code"] for row in result["setup_results"]] == [0, 3]
    assert result["error"].startswith("RuntimeError: task.setup_shell failed (3): why\n")
    assert result["error_kind"] == "task" and result["reward"] is None
    assert result["agent_exit_code"] is None and result["verify_results"] == []


def test_defect_12_an_agent_over_its_time_is_dead_before_verify(server, upstream):
    result = call(server, arguments(
        upstream, [CALL, {"run": "(while true; do date +%N > beat; sleep 0.05; done) & sleep 60"}],
        agent_timeout_s=2,
        verify=["a=$(cat beat); sleep 0.4; test \"$a\" = \"$(cat beat)\""]))
    assert result["error"].startswith("agent timeout: ")
    assert result["error_kind"] == "timed_out" and result["agent_exit_code"] is None
    assert result["reward"] == 1.0


def test_defect_07_the_agents_exit_code_is_its_own(server, upstream):
    result = call(server, arguments(upstream, [CALL, {"exit": 7}], verify=["true"]))
    assert result["agent_exit_code"] == 7 and result["error_kind"] == "agent"


def test_defect_09_a_reward_cannot_be_forged(server, upstream):
    forge = "mkdir -p ~/logs/verifier; echo 99 > ~/logs/verifier/reward.txt; echo $?"
    result = call(server, arguments(upstream, [CALL, {"run": forge}], verify=["false"]))
    assert result["reward"] == 0.0
    result = call(server, arguments(upstream, [CALL, {"run": forge}],
                                    verify=["echo 0.25 > /home/user/logs/verifier/reward.txt"]))
    assert result["reward"] == 0.25


def test_defect_15_a_crash_is_in_the_log_tail(server, upstream):
    place_of_crash = [CALL, {"run": "true"}, {"post": 5}]
    result = call(server, arguments(upstream, place_of_crash, verify=["true"]))
    assert "Traceback (most recent call last)" in result["agent_log_tail"]
    assert result["agent_exit_code"] == 1


def test_an_agent_that_never_calls_is_an_error_of_its_own(server, upstream):
    result = call(server, arguments(upstream, [{"run": "true"}], verify=["true"]))
    assert result["error_kind"] == "gate_never_called" and result["reward"] is None


def test_nothing_verified_is_null(server, upstream):
    assert call(server, arguments(upstream))["reward"] is None


def test_modes_that_are_not_served_say_what_to_do(server, upstream):
    assert call(server, arguments(upstream, mode="zzz"))["error"] == "ValueError: Unknown mode: 'zzz'"


def test_finding_54_transparent_proxy_is_refused_with_what_to_use(server, upstream):
    error = call(server, arguments(upstream, mode="transparent_proxy"))["error"]
    assert "deprecated" in error and "interception_gate" in error and "black_box" in error


def test_an_upstream_that_refuses_is_told(server, upstream):
    result = call(server, {**arguments(upstream, verify=["true"]), "api_key": "another"})
    assert result["proxy_turns"][0]["upstream_status"] == 401
    assert "another" not in json.dumps(result)


# Everything that an agent can read of itself, and of it what has the form of this file's keys. The
# decoys, one for each place, must be found, or nothing else would be. Not in plain words: a command's
# own line is looked at, too, and OpenCode asks before it lets one look outside its directory.
LOOK = "echo %s | base64 -d | sh" % base64.b64encode(b"""
mkdir -p ~/.config/decoy
echo file-key-0001 >~/.config/decoy/file
export DECOY=environ-key-0002
sh -c '
  unset DECOY
  export ANOTHER=env-"key"-0003
  (env; cat /proc/*/environ /proc/*/cmdline; cat ~/* ~/.* ~/.config/*/* ~/.pi/agent/*) 2>/dev/null |
    tr "\\0" "\\n" | grep -a -E -o "[a-z]+-key-[0-9]{4,}" | sort -u | tr "\\n" " "' argv-key-0004
""").decode()
DECOYS = {"file-key-0001", "environ-key-0002", "env-key-0003", "argv-key-0004"}


def keys_in(text):
    return set(re.findall("[a-z]+-key-[0-9]{4,}", text))


def last_step(result):
    """What the agent's last command printed."""
    return json.loads(result["agent_log_tail"].splitlines()[-1])["stdout"]


def test_finding_43_the_upstreams_key_is_nowhere_but_upstream(server, upstream, place):
    assert keys_in(KEY)
    result = call(server, arguments(upstream, [CALL, {"run": LOOK}], verify=["env"]))
    assert keys_in(last_step(result)) == DECOYS
    assert "PATH=" in result["verify_results"][0]["stdout"]
    assert KEY not in json.dumps(result)
    log, kept = (place / "log").read_text(), list((place / "data").iterdir())
    assert result["rollout_id"] in "".join(file.name for file in kept) and "run_rollout" in log
    assert KEY not in log
    for file in kept:
        assert KEY.encode() not in file.read_bytes()


# Every way that somebody in a sandbox has to the routes of the server and of the trainer API:
# straight, and through the proxy that set-up has, by both of this machine's names. Tells what each
# came to, and how many did.
TRY_ROUTES = """python3 - <<'END'
import collections, http.client, json, os, pathlib, urllib.parse

upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
came_to = collections.Counter()


def ask(connection, method, target, headers):
    try:
        connection.request(method, target, b"{}" if method == "POST" else None, headers)
        answer = connection.getresponse()
        inner = " no public address" if b"no public address" in answer.read() else ""
        came_to[f"{answer.status}{inner}"] += 1
    except OSError as error:
        came_to[str(error)] += 1


# Set-up notes its proxy for the agent, which is told of none.
note = pathlib.Path("proxy")
if "http_proxy" in os.environ:
    note.write_text(os.environ["http_proxy"])
proxy = urllib.parse.urlsplit(note.read_text()) if note.exists() else None
for port, method, path, headers in ROUTES:
    headers = upgrade if headers else {}
    ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), method, path, headers)
    for name in ("127.0.0.1", "localhost") if proxy else ():
        there = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=10)
        ask(there, method, f"http://{name}:{port}{path}", headers)
        tunnel = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=10)
        tunnel.set_tunnel(name, port)
        ask(tunnel, method, path, headers)
print(json.dumps(came_to))
END"""
REFUSED = "[Errno 111] Connection refused"
NO_TUNNEL = "Tunnel connection failed: 403 Forbidden"


def try_routes(server):
    """The command, and how many routes it tries."""
    ports = [int(url.rsplit(":", 1)[1])
             for url in (server.url, server.fetch("/metadata")[1]["trainer"]["api"])]
    rows = [(ports[0], method, path, upgrade) for method, path, upgrade in (
        ("POST", "/reset", False), ("POST", "/step", False), ("GET", "/state", False),
        ("POST", "/mcp", False), ("GET", "/mcp", True), ("GET", "/ws", True),
        ("GET", "/rollouts", False), ("POST", "/rollouts/x/cancel", False))]
    rows += [(ports[1], method, path, False) for method, path in (
        ("POST", "/v1/next_batch"), ("POST", "/v1/reply"), ("POST", "/v1/rollouts"),
        ("GET", "/v1/rollouts"))]
    return TRY_ROUTES.replace("ROUTES", repr(rows)), len(rows)


TRAINER = {"SLUICE_TRAINER_KEY": "trainer-key-0123456789",
           "SLUICE_OPERATOR_KEY": "operator-key-0123456789"}


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.mark.parametrize("network", ["none", "setup", "setup with its own names"])
def test_finding_49_an_agent_cannot_reach_the_server_it_runs_under(network, upstream, place):
    # The list has to name the ports before they are the server's.
    mine, trainers = free_ports(2) if "names" in network else (0, 0)
    hosts = [f"{name}:{port}" for name in ("localhost", "127.0.0.1") for port in (mine, trainers)
             if port] or ["packages.invalid"]
    with Served("sluice", "serve", "--port", mine, "--agents-dir", AGENTS, "--data", place / "data",
                "--trainer-listen", f"127.0.0.1:{trainers}", "--network", network.split()[0],
                "--setup-hosts", *hosts, env=TRAINER) as server:
        probe, tried = try_routes(server)
        result = call(server, arguments(upstream, [CALL, {"run": probe}], verify=["true"],
                                        setup=[probe]))
        assert result["reward"] == 1.0, result
        in_setup = json.loads(result["setup_results"][0]["stdout"])
        by_agent = json.loads(last_step(result))
    ways = 1 if network == "none" else 5
    assert by_agent == {REFUSED: tried * ways}
    if network == "none":
        assert in_setup == {REFUSED: tried}
    elif network == "setup":
        assert in_setup == {REFUSED: tried, "403": tried * 2, NO_TUNNEL: tried * 2}
    else:
        assert in_setup == {REFUSED: tried, "403 no public address": tried * 2,
                            NO_TUNNEL: tried * 2}


def test_finding_49_on_a_shared_network_the_server_refuses_an_agent(upstream, place):
    key = "server-key-0123456789"
    with Served("sluice", "serve", "--port", 0, "--agents-dir", AGENTS, "--data", place / "data",
                "--trainer-listen", "127.0.0.1:0", "--network", "open",
                env={"SLUICE_KEYS": key, **TRAINER}) as served:
        served.headers["Authorization"] = f"Bearer {key}"
        probe, tried = try_routes(served)
        # Others reach the agent's own endpoint there: it wants the rollout's key, which the agent has.
        strange = {"post": CALL["post"].replace("hi", "ho"), "headers": {"Authorization": "Bearer x"}}
        result = call(served, arguments(upstream, [CALL, strange, {"run": probe}, {"run": LOOK}],
                                        setup=[probe], verify=["true"]))
    assert result["reward"] == 1.0, result
    assert json.loads(result["setup_results"][0]["stdout"]) == {"401": tried}
    assert result["llm"]["calls"] == 1
    assert json.loads(result["agent_log_tail"].splitlines()[-3])["status"] == 401
    by_agent = json.loads(result["agent_log_tail"].splitlines()[-2])["stdout"]
    assert json.loads(by_agent) == {"401": tried}
    # Nor does it learn a key.
    assert keys_in(last_step(result)) == DECOYS


def test_finding_49_a_shared_network_needs_keys(place):
    with pytest.raises(RuntimeError):
        Served("sluice", "serve", "--port", 0, "--network", "open", "--data", place / "data")


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_keeps_its_books(server, upstream):
    with client(server.url) as env:
        env.reset(episode_id="mine")
        result = json.loads(env.call_tool("run_rollout", **arguments(
            upstream, task_id="t9", verify=["true"])))
    connection = Frames(server)
    connection.ask({"type": "reset", "data": {"episode_id": "mine"}})
    assert connection.ask({"type": "state"}) == {"type": "state", "data": {
        "episode_id": "mine", "step_count": 0, "rollouts_completed": 0, "last_reward": None,
        "last_task_id": None, "last_sandbox_id": None}}
    reply = connection.ask({"type": "step", "data": {
        "tool_name": "run_rollout", "arguments": arguments(upstream, task_id="t9", verify=["true"])}})
    assert reply["data"]["reward"] is None and reply["data"]["done"] is False
    mine = json.loads(reply["data"]["observation"]["result"]["data"])
    assert connection.ask({"type": "state"})["data"] == {
        "episode_id": "mine", "step_count": 0, "rollouts_completed": 1, "last_reward": 1.0,
        "last_task_id": "t9", "last_sandbox_id": mine["sandbox_id"]}
    assert result["reward"] == 1.0
    # A call over MCP is no step, but a rollout of the session's all the same; one that failed, and
    # whose task had no name, is told as such.
    reply = connection.ask({"type": "mcp", "data": {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "run_rollout", "arguments": arguments(upstream, mode="zzz")}}})
    assert json.loads(reply["data"]["result"]["data"])["reward"] is None
    state = connection.ask({"type": "state"})["data"]
    assert list(state.items()) == [
        ("episode_id", "mine"), ("step_count", 0), ("rollouts_completed", 2), ("last_reward", None),
        ("last_task_id", None), ("last_sandbox_id", None)]
    connection.close()


class Frames:
    """A raw session on /ws."""

    def __init__(self, server):
        from websockets.sync.client import connect

        self.socket = connect(server.url.replace("http", "ws") + "/ws", max_size=None)

    def send(self, frame):
        self.socket.send(json.dumps(frame))

    def ask(self, frame):
        self.send(frame)
        return json.loads(self.socket.recv(timeout=60))

    def close(self):
        self.socket.close()


def test_defect_11_a_client_that_leaves_ends_its_rollout(server, upstream):
    frames = Frames(server)
    frames.send({"type": "step", "data": {"tool_name": "run_rollout", "arguments": arguments(
        upstream, [CALL, {"sleep": 50}], task_id="left", verify=["true"])}})
    wait_for(lambda: any(row["task_id"] == "left" for row in rollouts(server, "running")))
    frames.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: any(row["task_id"] == "left" for row in rollouts(server, "ended")))
    row = next(row for row in rollouts(server, "ended") if row["task_id"] == "left")
    assert row["error_kind"] == "cancelled" and row["reward"] is None
    assert row["call_cancelled"] == "client_gone"


def test_a_rollout_is_watched_and_cancelled_beside_the_wire(server, upstream):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(call, server, arguments(upstream, [CALL, {"sleep": 50}],
                                                      task_id="watched", verify=["true"]))
        wait_for(lambda: any(row["task_id"] == "watched" for row in rollouts(server, "running")))
        row = next(row for row in rollouts(server, "running") if row["task_id"] == "watched")
        events = pool.submit(server.fetch, f"/rollouts/{row['rollout_id']}/events")
        wait_for(lambda: server.fetch(f"/rollouts/{row['rollout_id']}")[1].get("state") == "running")
        time.sleep(0.5)
        status, _ = server.fetch(f"/rollouts/{row['rollout_id']}/cancel", {}, method="POST")
        assert status in (200, 202)
        result = running.result(30)
        assert result["error_kind"] == "cancelled" and "/rollouts" in result["error"]
        text = events.result(30)[1]
        assert '"phase":"create"' in text and '"phase":"agent"' in text


def test_a_steps_own_time_ends_its_rollout(server, upstream):
    status, answer = server.fetch("/step", {"timeout_s": 1.5, "action": {
        "tool_name": "run_rollout",
        "arguments": arguments(upstream, [CALL, {"sleep": 50}], task_id="late")}})
    assert status == 200
    assert answer["observation"]["error"] == {
        "error_type": "timeout", "message": "Tool 'run_rollout' timed out after 1.5 seconds"}
    wait_for(lambda: not any(row["task_id"] == "late" for row in rollouts(server, "running")))


def test_an_agent_added_by_its_user_runs_without_a_rebuild(server, upstream, place):
    text = (AGENTS / "caller.toml").read_text().replace('name = "caller"', 'name = "newcomer"')
    (place / "agents" / "newcomer.toml").write_text(text)
    try:
        assert "newcomer" in server.fetch("/metadata")[1]["agents"]
        assert "newcomer" in server.rpc("tools/list")["result"]["tools"][0]["description"]
        assert "'newcomer'" in call(server, {"agent": "nobody"})
        result = call(server, {**arguments(upstream, verify=["true"]), "agent": "newcomer"})
        assert result["reward"] == 1.0
    finally:
        (place / "agents" / "newcomer.toml").unlink()


def test_rollouts_over_the_limit_wait_their_turn(place, upstream):
    with Served("sluice", "serve", "--port", 0, "--agents-dir", AGENTS, "--data", place / "data",
                "--max-rollouts", 1) as served:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            given = arguments(upstream, [CALL, {"sleep": 0.3}], verify=["true"])
            results = list(pool.map(lambda _: call(served, given), range(3)))
        assert [result["reward"] for result in results] == [1.0] * 3
        rows = rollouts(served)
        assert len(rows) == 3


def test_logprobs_that_were_asked_for_and_did_not_come_are_told(server):
    with Upstream("hello", key=KEY, logprobs=None) as model:
        result = call(server, arguments(model, top_logprobs=2, verify=["true"]))
        turn = result["proxy_turns"][0]
        assert turn["finish_reason"] == "stop" and turn["per_token_logps"] == []
        assert ["not captured" in text for text in warnings_of(result)] == [True]
        assert warnings_of(call(server, arguments(model, verify=["true"]))) == []


def test_defect_08_agents_that_know_of_no_parameter_have_them_all(server, upstream):
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 99999,
             "chat_template_kwargs": {"tools": 1}}
    result = call(server, arguments(
        upstream, [CALL, {"post": json.dumps(asked)}], max_tokens_cap=77, disable_thinking=True,
        top_logprobs=2, verify=["true"]))
    assert result["reward"] == 1.0 and warnings_of(result) == []
    plain, named = upstream.requests[-2:]
    for body in (plain, named):
        assert body["max_tokens"] == 77
        assert body["logprobs"] is True and body["top_logprobs"] == 2
    assert plain["chat_template_kwargs"] == {"enable_thinking": False}
    assert named["chat_template_kwargs"] == {"tools": 1, "enable_thinking": False}
    # The defaults: a cap, and nothing that an endpoint could refuse.
    result = call(server, arguments(upstream, verify=["true"]))
    assert set(upstream.requests[-1]) == {"model", "messages", "max_tokens"}
    assert warnings_of(result) == []
    # Whoever asks for just the default is told that it is not asked of the model.
    result = call(server, arguments(upstream, max_tokens_cap=4096, top_logprobs=5, verify=["true"]))
    assert set(upstream.requests[-1]) == {"model", "messages", "max_tokens"}
    assert ["top_logprobs has no effect: 5" in text for text in warnings_of(result)] == [True]
    call(server, arguments(upstream, max_tokens_cap=0, verify=["true"]))
    assert set(upstream.requests[-1]) == {"model", "messages"}


# --- interception_gate ----------------------------------------------------------------------------


class Trainer(threading.Thread):
    """A loop that takes calls over the trainer API and answers with what a model would say."""

    def __init__(self, api, key, turns):
        super().__init__(daemon=True)
        self.api, self.key, self.turns = api, key, turns
        self.calls, self.ended, self.stopping = [], [], False

    def post(self, path, body):
        request = urllib.request.Request(self.api + path, json.dumps(body).encode(),
                                         {"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def take(self, wait_s=1):
        """The calls that came; those of rollouts that have ended are over."""
        items = self.post("/v1/next_batch", {"trainer": "t", "max": 8, "wait_s": wait_s})["items"]
        self.ended += [item for item in items if item["type"] == "ended"]
        calls = [item for item in items if item["type"] != "ended"]
        self.calls += calls
        return calls

    def take_one(self):
        while not (calls := self.take()):
            pass
        return calls[0]

    def answer(self, item, turn):
        number = sum(m["role"] == "assistant" for m in item["body"]["messages"])
        choice = {"text": turn, "finish": "stop"} if isinstance(turn, str) else {
            "text": "", "finish": "tool_calls", "tool_calls": [
                {"id": f"call_{number}", "name": turn[0], "arguments": json.dumps(turn[1])}]}
        choice |= {"ids": [number, 7, 9], "logprobs": [-0.5, -0.25, -1.0]}
        self.post("/v1/reply", {"call": item["id"], "trainer": "t", "answer": {
            "origin": "sampled", "choices": [choice], "prompt_ids": [1, 2],
            "usage": {"prompt_tokens": 2, "completion_tokens": 3}}})

    def run(self):
        while not self.stopping:
            for item in self.take():
                number = sum(m["role"] == "assistant" for m in item["body"]["messages"])
                self.answer(item, self.turns[min(number, len(self.turns) - 1)])


@pytest.fixture
def gate_server(place):
    with Served("sluice", "serve", "--port", 0, "--agents-dir", AGENTS, "--data", place / "data",
                "--trainer-listen", "127.0.0.1:0", "--trainer-wait-s", 1,
                env={**TRAINER, "OPENAI_API_KEY": KEY, "HF_TOKEN": KEY}) as served:
        yield served


@pytest.fixture
def trainer(gate_server):
    """A trainer that is attached and answers what its test makes it answer."""
    made = Trainer(gate_server.fetch("/metadata")[1]["trainer"]["api"], "trainer-key-0123456789", [])
    made.take(0)
    return made


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_finding_76_agents_are_answered_by_a_trainer_over_its_api(gate_server, server, agent):
    installed(server, agent)
    how = gate_server.fetch("/metadata")[1]["trainer"]
    assert how["attached"] is False
    given = {"agent": agent, "mode": "interception_gate", "instruction": TASK["instruction"],
             "verify": TASK["verify"], "task_id": "gated"}
    refused = call(gate_server, given)
    assert "no trainer is attached" in refused["error"] and refused["error_kind"] == "infrastructure"
    assert refused["wall_s"] < 10 and refused["reward"] is None

    trainer = Trainer(how["api"], "trainer-key-0123456789", SCRIPTS[agent])
    trainer.start()
    wait_for(lambda: gate_server.fetch("/metadata")[1]["trainer"]["attached"])
    result = call(gate_server, given)
    wait_for(lambda: trainer.ended)
    trainer.stopping = True
    trainer.join(10)
    assert result["error"] is None, result
    assert result["reward"] == 1.0 and result["mode"] == "interception_gate"
    assert [turn["completion_token_ids"] for turn in result["proxy_turns"]] == [[0, 7, 9], [1, 7, 9]]
    assert [turn["finish_reason"] for turn in result["proxy_turns"]] == ["tool_calls", "stop"]
    assert all(turn["per_token_logps"] == [-0.5, -0.25, -1.0] for turn in result["proxy_turns"])
    assert {item["rollout"] for item in trainer.calls} == {result["rollout_id"]}
    row = gate_server.fetch(f"/rollouts/{result['rollout_id']}")[1]
    assert row["task_id"] == "gated" and row["session"]
    for item in trainer.calls:
        assert item["task"] == {"id": "gated", "metadata": {
            "session": row["session"], "episode_id": row["episode_id"]}}


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_finding_33_parameters_reach_the_trainer_or_a_warning_says_why_not(
        gate_server, server, agent):
    installed(server, agent)
    trainer = Trainer(gate_server.fetch("/metadata")[1]["trainer"]["api"], "trainer-key-0123456789",
                      ["Nothing to do."])
    trainer.start()
    wait_for(lambda: gate_server.fetch("/metadata")[1]["trainer"]["attached"])
    result = call(gate_server, {
        "agent": agent, "mode": "interception_gate", "instruction": "Say that there is nothing to do.",
        "verify": ["true"], "disable_thinking": True, "max_tokens_cap": 1234, "top_logprobs": 5})
    trainer.stopping = True
    trainer.join(10)
    assert result["reward"] == 1.0, result
    for item in trainer.calls:
        assert item["body"][LIMITS[agent]] == 1234
        assert item["body"]["chat_template_kwargs"]["enable_thinking"] is False
    assert warnings_of(result) == ["top_logprobs has no effect: the trainer decides what it captures"]


def test_what_a_spec_cannot_say_is_a_warning_in_gate_mode(gate_server, trainer):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(call, gate_server, {
            "agent": "caller", "mode": "interception_gate", "instruction": json.dumps([CALL]),
            "disable_thinking": True, "verify": ["true"]})
        trainer.answer(trainer.take_one(), "hello")
        told = warnings_of(running.result(60))
    assert [text.split(" has no effect")[0] for text in told] == ["disable_thinking", "max_tokens_cap"]


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_defect_02_defect_03_defect_04_in_gate_mode_no_key_is_where_the_agent_can_read_it(
        gate_server, server, agent):
    installed(server, agent)
    look = ("bash", {"command": LOOK, "description": "looks"})
    trainer = Trainer(gate_server.fetch("/metadata")[1]["trainer"]["api"], "trainer-key-0123456789",
                      [look, "That is all."])
    trainer.start()
    wait_for(lambda: gate_server.fetch("/metadata")[1]["trainer"]["attached"])
    # An endpoint is given, with its key: in this mode nothing goes there.
    result = call(gate_server, {"agent": agent, "mode": "interception_gate", "api_key": KEY,
                                "base_url": "http://127.0.0.1:9/v1", "model": "m",
                                "instruction": "Look around.", "verify": ["true"]})
    trainer.stopping = True
    trainer.join(10)
    assert result["error"] is None and result["reward"] == 1.0, result
    seen = [message["content"] for item in trainer.calls for message in item["body"]["messages"]
            if message["role"] == "tool"]
    assert keys_in(json.dumps(seen)) == DECOYS, result
    assert KEY not in json.dumps(trainer.calls) and KEY not in json.dumps(result)


PROBE = """python3 - <<'END'
import pathlib, urllib.error, urllib.request
url = next(word for file in pathlib.Path("/proc").glob("[0-9]*/cmdline")
           for word in file.read_text().split(chr(0)) if word.startswith("http://127.0.0.1:"))
base = "/".join(url.split("/")[:3])
for path, body in [(f"/rollout/OTHER/v1/{rest}", b"{}") for rest in (
        "exit", "chat/completions", "tools/x")] + [("/rollout/OTHER/exit", b"{}"), ("/health", None)]:
    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, body), timeout=10) as answer:
            print(path, answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(path, error.code)
END"""


def test_defect_05_an_agent_can_neither_end_nor_ask_nor_see_another_rollout(
        gate_server, upstream, trainer):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        other = pool.submit(call, gate_server, {
            "agent": "caller", "mode": "interception_gate", "instruction": json.dumps([CALL]),
            "verify": ["true"]})
        parked = trainer.take_one()
        probe = PROBE.replace("OTHER", parked["rollout"])
        result = call(gate_server, arguments(upstream, [CALL, {"run": probe}], verify=["true"]))
        said = json.loads(result["agent_log_tail"].splitlines()[-1])
        assert said["stdout"].count(" 404\n") == 5, said
        trainer.answer(parked, "hello")
        result = other.result(60)
    assert result["reward"] == 1.0 and result["llm"]["turns"] == 1, result


def test_defect_06_a_rollout_that_is_cancelled_does_not_wait_for_its_parked_call(
        gate_server, trainer):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(call, gate_server, {
            "agent": "caller", "mode": "interception_gate", "instruction": json.dumps([CALL]),
            "verify": ["true"], "agent_timeout_s": 600})
        parked = trainer.take_one()
        assert gate_server.fetch(f"/rollouts/{parked['rollout']}/cancel", {})[0] == 200
        # Nobody answers the call, and the agent would wait for it for 50 s more than this.
        result = running.result(40)
    assert result["error_kind"] == "cancelled" and result["agent_exit_code"] is None


def test_defect_17_no_secret_is_in_a_command_line_of_the_host(server, upstream):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = len(upstream.requests)
        running = pool.submit(call, server, arguments(
            upstream, [CALL, {"sleep": 50}], task_id="argv", setup=["true"], verify=["true"]))
        wait_for(lambda: len(upstream.requests) > before)
        lines = b""
        for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines += file.read_bytes() + b"\n"
        row = next(row for row in rollouts(server, "running") if row["task_id"] == "argv")
        server.fetch(f"/rollouts/{row['rollout_id']}/cancel", {})
        running.result(40)
    assert b"caller.py" in lines  # the agent is seen from here, so its key would be
    assert KEY.encode() not in lines
