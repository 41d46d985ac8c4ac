"""`sluice serve` as a command: where its settings come from, who may talk to it, how it ends."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from coding_rollouts import call
from openenv_clients import client
from serving import BUILD, SOURCE, Served, wait_for
from upstream import Upstream

AGENTS = SOURCE / "tests" / "system" / "agents"
KEY = "a-key-of-some-length"
CALL = {"post": '{"model":"m","messages":[{"role":"user","content":"hi"}]}'}


def serve(tmp_path, *flags, **more):
    return Served("sluice", "serve", "--port", 0, "--data", tmp_path / "data", "--agents-dir", AGENTS,
                  *flags, **more)


def refused(*flags, env=None):
    done = subprocess.run([str(BUILD / "bin" / "sluice"), "serve", *map(str, flags)],
                          capture_output=True, text=True, timeout=30, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    assert done.returncode != 0 and done.stdout == ""
    return done.stderr


def task(upstream, *steps, **more):
    return {"agent": "caller", "base_url": upstream.url, "api_key": "upstream-key", "model": "m",
            "instruction": json.dumps([CALL, *steps]), "verify": ["true"], **more}


@pytest.fixture(scope="module")
def upstream():
    with Upstream("hello") as made:
        yield made


def test_flags_come_before_variables_and_these_before_the_file(tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text('max_sessions = 1\nmax_rollouts = 7\nstep_timeout_s = 5\n')

    def capacity(*flags, env=None):
        with serve(tmp_path, "--config", config, *flags, env=env) as served:
            made = 0
            while "result" in (answer := served.rpc("openenv/session/create")):
                made += 1
            assert answer["error"]["data"]["max_sessions"] == made
            return made, served.fetch("/metadata")[1]["max_rollouts"]

    with serve(tmp_path) as served:
        answers = [served.rpc("openenv/session/create") for _ in range(5)]
        assert ["result" in answer for answer in answers] == [True] * 4 + [False]
    assert capacity() == (1, 7)
    assert capacity(env={"MAX_CONCURRENT_ENVS": "2", "SLUICE_MAX_ROLLOUTS": "8"}) == (2, 8)
    assert capacity("--max-sessions", 3, env={"MAX_CONCURRENT_ENVS": "2"}) == (3, 7)


@pytest.mark.parametrize("text, flags, reason", [
    ("[budget]\ncalls = 1", [], "the budget of 1 calls is used up"),
    ("total_calls = 1", [], "the gate's budget of 1 calls is used up"),
    ("total_calls = 9", ["--total-calls", 1], "the gate's budget of 1 calls is used up"),
])
def test_budgets_of_a_rollout_and_of_all_are_settings(tmp_path, upstream, text, flags, reason):
    config = tmp_path / "serve.toml"
    config.write_text(text)
    with serve(tmp_path, "--config", config, *flags) as served, client(served.url) as env:
        result = json.loads(env.call_tool("run_rollout", **task(
            upstream, {"post": CALL["post"].replace("hi", "ho")})))
        assert result["error_kind"] == "budget", result
        assert result["error"].endswith("refused by its budget: " + reason)


def test_what_agents_are_told_of_their_model_is_a_setting(tmp_path, upstream):
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "teller.toml").write_text((AGENTS / "caller.toml").read_text().replace(
        'name = "caller"', 'name = "teller"').replace(
        '"{base_url}"]', '"{base_url}", "{context_window}", "{max_output}"]'))
    config = tmp_path / "serve.toml"
    config.write_text("context_window = 32768\nmax_output = 2048\n")
    look = {"run": "tr '\\0' ' ' < /proc/$PPID/cmdline"}

    def told(served, **more):
        with client(served.url) as env:
            result = json.loads(env.call_tool("run_rollout", **task(
                upstream, look, **{"agent": "teller", **more})))
        assert result["error"] is None, result
        return re.search(r" (\d+ \d+) ", result["agent_log_tail"])[1]

    for flags, more, numbers in (
            ([], {}, "131072 4096"), (["--config", config], {}, "32768 2048"),
            (["--config", config, "--max-output", 9000], {}, "32768 9000"),
            (["--config", config], {"max_tokens_cap": 77}, "32768 77")):
        with Served("sluice", "serve", "--port", 0, "--data", tmp_path / "data", "--agents-dir",
                    agents, *flags) as served:
            assert told(served, **more) == numbers
            assert upstream.requests[-1]["max_tokens"] == int(numbers.split()[1])


@pytest.mark.parametrize("text, said", [
    ("context_window = 0", "serve.toml:1: context_window"),
    ("max_output = 200000", "is more than the context window"),
    ("max_body_mb = 0", "serve.toml:1: max_body_mb"),
    ("max_sessions = 0", "serve.toml:1: max_sessions"), ("\nbogus = 1", "serve.toml:2: bogus"),
    ("[budget]\ncall = 1", "serve.toml:2: budget.call"), ('[gate]\naccept = "x"', "gate.accept"),
    ('policy = "script:x"', "--policy script:x: must be trainer"),
    ('network = "wifi"', "serve.toml:1: network"), ("[limits]\nmemory_mb = 'x'", "limits.memory_mb"),
])
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path, text, said):
    config = tmp_path / "serve.toml"
    config.write_text(text)
    assert said in refused("--config", config)


@pytest.mark.parametrize("flags, said", [
    (["--max-sessions", "0"], "--max-sessions"), (["--drain-s", "-1"], "--drain-s"),
    (["--mode", "half"], "mode"), (["--key-file", "/nonexistent"], "key file"),
    (["--network", "open"], "--key-file"), (["--total-time-s", "nan"], "--total-time-s"),
    (["--host", "not an address"], "address"), (["--max-body-mb", "2000"], "--max-body-mb"),
])
def test_mistakes_in_flags_are_named(flags, said):
    assert said in refused("--port", 0, *flags)


@pytest.mark.parametrize("where", ["flag", "variable", "file"])
def test_finding_21_a_backend_that_is_not_there_is_refused_by_name(tmp_path, where):
    config = tmp_path / "serve.toml"
    config.write_text('backend = "moon"\n')
    said = refused("--port", 0, *(["--backend", "moon"] if where == "flag" else []),
                   *(["--config", config] if where == "file" else []),
                   env={"SLUICE_BACKEND": "moon" if where == "variable" else ""})
    # What it was, and what there is.
    assert "backend" in said and "moon" in said and "local" in said


def test_help_names_every_setting():
    text = subprocess.run([str(BUILD / "bin" / "sluice"), "serve", "--help"], capture_output=True,
                          text=True, check=True).stdout
    sources = {name: (SOURCE / "sluice" / name).read_text() for name in (
        "cli/shared_flags.cc", "cli/gate_flags.h", "cli/serve_settings.cc", "cli/trainer_side.cc",
        "env/coding/catalog.cc")}
    variables = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|PORT)"', "".join(sources.values())))
    assert {"PORT", "VLLM_URL", "SLUICE_KEYS", "MAX_CONCURRENT_ENVS", "SLUICE_TRAINER_KEY"} <= variables
    for name in variables | {"E2B_API_KEY"}:
        assert re.search(rf"\b{name}\b", text), name
    # Flags, and what the file knows: under their names, but for what is told at the end.
    source = sources["cli/serve_settings.cc"]
    settings = set(re.findall(
        r'in\.(?:text|choice|number|seconds|list|yes|flag)\(\s*"([a-z]\w*)"', source))
    settings |= set(re.findall(r'visit\("([a-z]\w*)"', sources["cli/gate_flags.h"]))
    flags = {"--" + name.replace("_", "-") for name in settings} | set(re.findall(
        r'(?:option|option_function<std::string>|limit)\(\s*"(--[a-z-]+)"',
        source + sources["cli/shared_flags.cc"]))
    assert {"--host", "--no-keys", "--config", "--env-file", "--accept", "--total-calls"} <= flags
    for flag in flags:
        assert re.search(rf"(?m)^ +{flag}\b", text), flag
    words = re.search(r"besides them: (.*?) and a table \[limits\] of\s+sandboxes \((.*?)\)\. Flags",
                      text, re.DOTALL)
    told = {word.strip() for word in re.sub(r"\(.*?\)", "", words[1], flags=re.DOTALL).split(",")}
    limits = {word.strip() for word in words[2].split(",")}
    # The table [limits] is read as a task's.
    reading = (SOURCE / "sluice/rollout/task.cc").read_text().split("void read_limits(")[1]
    in_table = set(re.findall(r'(?:limit|table\.\w+)\("(\w+)"', reading.split("\n}\n")[0]))
    keys = settings | set(re.findall(r'file(?:\(\))?\.\w+\("([a-z]\w*)"', source)) - {"limits"}
    assert limits == in_table and "memory_mb" in limits
    named = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    # no_keys and web are flags too, of another kind than their keys.
    assert told == (keys - named) | {"no_keys", "web"}
    # What a task's table has is read as a task's.
    in_gate = {"accept", "delivery", "max_version_lag"}
    assert in_gate <= named
    assert named - keys - in_gate <= {"config", "env_file"}
    # Whatever variable of ours, or of the desktop's directories, some source reads.
    every = "".join(path.read_text() for path in (SOURCE / "sluice").rglob("*.cc")
                    if not path.stem.endswith(("_test", "_fuzz", "_bench"))
                    and "conformance" not in path.parts)
    for name in set(re.findall(r'"(SLUICE_[A-Z_]+|XDG_[A-Z_]+)"', every)):
        assert name in text, name


def test_an_env_file_comes_behind_the_environment(tmp_path, upstream):
    file = tmp_path / ".env"
    file.write_text("# models\nexport VLLM_URL='http://127.0.0.1:9'\nVLLM_MODEL=\"the files\"\n"
                    "VLLM_API_KEY = upstream-key\nOPENAI_API_KEY=\"k\"\n")
    with serve(tmp_path, "--env-file", file, env={"VLLM_URL": upstream.url}) as served:
        rows = {row["kind"]: row["configured"] for row in served.fetch("/metadata")[1]["endpoints"]}
        answer = served.rpc("tools/call", {"name": "run_rollout", "arguments": {
            "agent": "caller", "endpoint": "vllm", "instruction": json.dumps([CALL]),
            "verify": ["true"]}})
        result = json.loads(answer["result"]["data"])
        row = served.fetch(f"/rollouts/{result['rollout_id']}")[1]
    assert rows == {"vllm": True, "openai": True, "hf_router": False}
    # It went where the environment says, with what only the file says.
    assert result["reward"] == 1.0 and result["proxy_turns"][0]["upstream_status"] == 200, result
    assert row["model"] == "the files"


def test_an_env_file_has_every_variable_that_help_names(tmp_path):
    file = tmp_path / ".env"
    config = tmp_path / "serve.toml"
    config.write_text("max_sessions = 7\n")
    key = "trainer-key-of-the-file"
    file.write_text(f"SLUICE_CONFIG={config}\nSLUICE_MAX_ROLLOUTS=5\nSLUICE_HOST=127.0.0.2\n"
                    "MAX_CONCURRENT_ENVS=2\nENABLE_WEB_INTERFACE=true\n"
                    f"SLUICE_DATA_DIR={tmp_path}/data\nSLUICE_TRAINER_LISTEN=127.0.0.1:0\n"
                    f"SLUICE_TRAINER_KEY={key}\nSLUICE_OPERATOR_KEY={key}-2\n")

    def served(*flags, env=None):
        return Served("sluice", "serve", "--env-file", file, *flags, env=env)

    def sessions(server):
        count = 0
        while "result" in server.rpc("openenv/session/create"):
            count += 1
        return count

    with served("--port", 0) as server:
        assert server.address.startswith("127.0.0.2:")
        metadata = server.fetch("/metadata")[1]
        assert metadata["max_rollouts"] == 5
        assert server.fetch("/web/metadata")[0] == 200
        assert sessions(server) == 2  # the TOML file comes behind it
        request = urllib.request.Request(metadata["trainer"]["api"] + "/v1/next_batch",
                                         b'{"trainer": "t", "max": 1, "wait_s": 0}',
                                         {"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
    assert not (tmp_path / "data" / "trainer-keys").exists()
    # What the environment says comes before it, and flags before both.
    with served("--port", 0, "--max-sessions", 1,
                env={"SLUICE_MAX_ROLLOUTS": "6", "MAX_CONCURRENT_ENVS": "3"}) as server:
        assert server.fetch("/metadata")[1]["max_rollouts"] == 6
        assert sessions(server) == 1
    with served("--port", 0, env={"MAX_CONCURRENT_ENVS": "3"}) as server:
        assert sessions(server) == 3
    file.write_text("PORT=nonsense\n")
    assert "--port" in refused("--env-file", file, env={"PORT": ""})


@pytest.mark.parametrize("text", ["nonsense\n", "=x\n", None])
def test_an_env_file_that_is_none_is_refused(tmp_path, text):
    file = tmp_path / ".env"
    if text is not None:
        file.write_text(text)
    said = refused("--port", 0, "--env-file", file)
    assert "--env-file" in said and str(file) in said


def test_every_variable_takes_effect(tmp_path, upstream):
    (tmp_path / "serve.toml").write_text("max_rollouts = 7\n")
    (tmp_path / "keys").write_text(KEY + "\n")
    (tmp_path / "templates" / "a-root").mkdir(parents=True)
    env = {"SLUICE_CONFIG": tmp_path / "serve.toml", "PORT": 0, "SLUICE_HOST": "127.0.0.2",
           "SLUICE_NETWORK": "open", "SLUICE_BACKEND": "local",
           "SLUICE_TEMPLATES_DIR": tmp_path / "templates", "SLUICE_DATA_DIR": tmp_path / "traces",
           "SLUICE_TRAINER_LISTEN": "127.0.0.1:0", "SLUICE_KEY_FILE": tmp_path / "keys"}
    with Served("sluice", "serve", "--agents-dir", AGENTS,
                env={name: str(value) for name, value in env.items()}) as served:
        host, port = served.address.split(":")
        assert host == "127.0.0.2" and port != "8000"
        assert served.fetch("/metadata")[0] == 401
        served.headers["Authorization"] = f"Bearer {KEY}"
        metadata = served.fetch("/metadata")[1]
        assert metadata["max_rollouts"] == 7 and metadata["templates"] == ["a-root"]
        assert metadata["backend"] == "local"
        assert metadata["trainer"]["api"].startswith("http://127.0.0.1:")
        # On a network of its own it would find nothing there.
        look = f"python3 -c 'import urllib.request as r; r.urlopen(\"{served.url}/state\")' 2>&1"
        answer = served.rpc("tools/call", {"name": "run_rollout", "arguments": task(
            upstream, {"run": look + " | tail -1"})})
        result = json.loads(answer["result"]["data"])
        assert "HTTP Error 401" in result["agent_log_tail"], result
        assert any(result["rollout_id"] in file.name for file in (tmp_path / "traces").iterdir())
    said = refused("--port", 0, "--data", tmp_path / "data", env={"SLUICE_BACKEND": "moon"})
    assert "moon" in said and "backend" in said.lower()


def test_times_of_commands_are_the_servers(tmp_path, upstream):
    config = tmp_path / "serve.toml"
    config.write_text("setup_timeout_s = 1\nverify_timeout_s = 1\n")
    with serve(tmp_path, "--config", config) as served:
        def run(**more):
            answer = served.rpc("tools/call", {
                "name": "run_rollout", "arguments": task(upstream, **more)})
            return json.loads(answer["result"]["data"])

        # A command over its time has no exit code, and says why; those behind it run.
        result = run(verify=["echo begun; sleep 60", "true"])
        assert [(row["exit_code"], row["stdout"], row["ended"]) for row in result["verify_results"]] == [
            (None, "begun\n", "timed out"), (0, "", "exit code 0")]
        # Nor does it leave a verdict.
        assert result["reward"] == 0 and result["error"] is None
        assert result["reward_error"] == "verify command timed out: echo begun; sleep 60"
        result = run(setup=["sleep 60"])
        assert [(row["exit_code"], row["ended"]) for row in result["setup_results"]] == [
            (None, "timed out")]
        assert result["error"].startswith("RuntimeError: task.setup_shell failed (timed out): ")
        assert result["reward"] is None and result["verify_results"] == []


def test_beyond_loopback_it_wants_keys_or_plain_words(tmp_path):
    said = refused("--port", 0, "--host", "0.0.0.0", "--data", tmp_path / "data")
    for way in ("--key-file", "SLUICE_KEYS", "--no-keys"):
        assert way in said
    log = open(tmp_path / "stderr", "w+")
    with serve(tmp_path, "--host", "0.0.0.0", "--no-keys", stderr=log):
        pass
    log.seek(0)
    assert "WARNING: keys are off" in log.read()


def test_keys_guard_every_route_but_health(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"# clients\n{KEY}\n")
    with serve(tmp_path, "--key-file", keys, "--log", tmp_path / "log") as served:
        assert served.fetch("/health")[0] == 200
        for path in ("/metadata", "/state", "/rollouts", "/metrics", "/docs", "/openapi.json"):
            assert served.fetch(path)[0] == 401, path
            assert served.fetch(path, headers={"Authorization": f"Bearer {KEY}"})[0] == 200, path
        assert served.fetch("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})[0] == 401
        # OpenEnv's client has a place for it in the URL alone.
        with client(f"http://any:{KEY}@{served.address}") as env:
            env.reset()
    assert KEY not in (tmp_path / "log").read_text()


def test_each_key_sees_and_cancels_its_own_rollouts_only(tmp_path, upstream):
    keys = {"SLUICE_KEYS": f"{KEY},another-{KEY}", "ENABLE_WEB_INTERFACE": "true"}
    mine, theirs = ({"Authorization": f"Bearer {key}"} for key in (KEY, "another-" + KEY))
    with serve(tmp_path, env=keys) as served:
        def ask(who, path, body=None, method=None):
            return served.fetch(path, body, method, headers=who)

        def start(who, steps):
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": "run_rollout", "arguments": task(upstream, *steps)}}
            return threading.Thread(target=ask, args=(who, "/mcp", message), daemon=True)

        calls = [start(mine, [{"sleep": 50}]), start(theirs, [])]
        for one in calls:
            one.start()
        calls[1].join(60)

        def running():
            return ask(mine, "/rollouts?state=running")[1]["rollouts"]

        wait_for(running, 30)
        here = ask(mine, "/rollouts")[1]["rollouts"]
        there = ask(theirs, "/rollouts")[1]["rollouts"]
        assert len(here) == len(there) == 1 and here[0]["rollout_id"] != there[0]["rollout_id"]
        rollout = here[0]["rollout_id"]
        for path in (f"/rollouts/{rollout}", f"/rollouts/{rollout}/events"):
            assert ask(theirs, path)[0] == 404
        assert ask(theirs, f"/rollouts/{rollout}/cancel", {}, "POST")[0] == 404
        assert running()
        assert ask(mine, f"/rollouts/{there[0]['rollout_id']}")[0] == 404
        # Nor can another's session be used or closed, or the page's environment be seen.
        def rpc(who, method, params=None):
            return ask(who, "/mcp", {"jsonrpc": "2.0", "id": 1, "method": method,
                                     "params": params or {}})[1]

        session = rpc(mine, "openenv/session/create")["result"]
        for method in ("openenv/session/close", "tools/list"):
            assert "Unknown session_id" in rpc(theirs, method, session)["error"]["message"]
        assert rpc(mine, "openenv/session/close", session)["result"]["closed"] is True
        ask(mine, "/web/reset", {"episode_id": "mine"})
        assert ask(mine, "/web/state")[1]["episode_id"] == "mine"
        assert ask(theirs, "/web/state")[1]["episode_id"] != "mine"
        assert ask(mine, f"/rollouts/{rollout}/cancel", {}, "POST")[0] == 200
        calls[0].join(60)
        assert ask(mine, f"/rollouts/{rollout}")[1]["error_kind"] == "cancelled"


def test_the_servers_key_goes_to_its_own_upstream_alone(tmp_path, upstream):
    env = {"VLLM_URL": upstream.url, "VLLM_API_KEY": "upstream-key", "VLLM_MODEL": "m"}
    with Upstream("thief", key="upstream-key") as other, serve(tmp_path, env=env) as served:
        given = {"agent": "caller", "endpoint": "vllm", "instruction": json.dumps([CALL]),
                 "verify": ["true"]}
        assert call(served, given)["reward"] == 1
        assert call(served, dict(given, base_url=upstream.url + "/"))["reward"] == 1
        said = call(served, dict(given, base_url=other.url))
        assert "this server's own key goes to its own base_url alone" in said
        assert other.requests == []
        # Whoever brings a key has it sent where it says.
        assert call(served, dict(given, base_url=other.url, api_key="upstream-key"))["reward"] == 1
        assert len(other.requests) == 1


def test_what_lies_inside_is_no_upstream_of_clients_elsewhere(tmp_path, upstream):
    given = {"agent": "caller", "api_key": "upstream-key", "model": "m", "verify": ["true"],
             "instruction": json.dumps([CALL])}
    port = upstream.url.rsplit(":", 1)[1]
    names = [upstream.url, f"http://localhost:{port}", f"http://2130706433:{port}",
             f"http://[::ffff:127.0.0.1]:{port}"]
    far = ("--host", "0.0.0.0", "--no-keys")
    before = len(upstream.requests)
    with serve(tmp_path, *far) as served:
        for url in [*names, "http://10.0.0.1", "http://169.254.169.254/latest"]:
            result = call(served, dict(given, base_url=url))
            assert result["error_kind"] == "task" and "--allow-upstreams" in result["error"], result
            assert result["sandbox_id"] == ""
    assert len(upstream.requests) == before
    # On loopback clients are on this machine themselves; the clouds' metadata stays out of reach.
    with serve(tmp_path) as served:
        assert call(served, dict(given, base_url=upstream.url))["reward"] == 1
        result = call(served, dict(given, base_url="http://169.254.169.254/latest"))
        assert "a link-local address" in result["error"], result
    with serve(tmp_path, *far, "--allow-upstreams", f"127.0.0.1:{port.split('/')[0]}") as served:
        assert call(served, dict(given, base_url=upstream.url))["reward"] == 1
        assert call(served, dict(given, base_url=names[1]))["reward"] is None
    with serve(tmp_path, *far, env={"OPENAI_BASE_URL": upstream.url}) as served:
        assert call(served, dict(given, base_url=upstream.url))["reward"] == 1
    assert "--allow-upstreams" in refused("--port", 0, "--allow-upstreams", "http://x")


def test_foreign_pages_are_refused(tmp_path):
    with serve(tmp_path) as served:
        assert served.fetch("/reset", {}, headers={"Origin": "https://evil.example"})[0] == 403
        assert served.fetch("/reset", {}, headers={"Host": "evil.example"})[0] == 403
        assert served.fetch("/reset", {}, headers={"Origin": served.url})[0] == 200


def test_sigterm_lets_what_runs_end(tmp_path, upstream):
    with serve(tmp_path) as served, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(served.rpc, "tools/call", {
            "name": "run_rollout", "arguments": task(upstream, {"sleep": 2})})
        wait_until_running(served)
        assert served.stop()[0] == 0
        assert json.loads(running.result()["result"]["data"])["reward"] == 1.0


@pytest.mark.parametrize("how", ["deadline", "second signal"])
def test_what_does_not_end_is_cancelled(tmp_path, upstream, how):
    drain = 1 if how == "deadline" else 300
    with serve(tmp_path, "--drain-s", drain) as served, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(served.rpc, "tools/call", {
            "name": "run_rollout", "arguments": task(upstream, {"sleep": 50})})
        wait_until_running(served)
        served.process.send_signal(signal.SIGTERM)
        if how == "second signal":
            time.sleep(0.3)
            served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        try:
            running.result(20)
        except (OSError, ValueError, AssertionError):
            pass


def wait_until_running(served):
    wait_for(lambda: served.fetch("/rollouts?state=running")[1]["rollouts"], 20)


class HeldUpstream(Upstream):
    """Answers when it is let go."""

    def __init__(self, *script):
        self.go = threading.Event()
        super().__init__(*script)

    def answer(self, request, body):
        self.go.wait(60)
        super().answer(request, body)


@pytest.mark.parametrize("what", ["cancel", "finish"])
def test_a_rollout_whose_client_left_ends_or_goes_on(tmp_path, what):
    from websockets.sync.client import connect

    with (HeldUpstream("hello") as model,
          serve(tmp_path, "--on-client-gone", what, "--max-sessions", 1) as served,
          connect(served.url.replace("http", "ws") + "/ws") as connection):
        connection.send(json.dumps({"type": "step", "data": {
            "tool_name": "run_rollout", "arguments": task(model)}}))
        wait_for(lambda: model.requests)
        connection.socket.shutdown(socket.SHUT_RDWR)
        if what == "finish":
            # Two answers later the server has seen its end, and works on.
            for _ in range(2):
                assert served.fetch("/rollouts?state=running")[1]["rollouts"]
            model.go.set()
        wait_for(lambda: served.fetch("/rollouts?state=ended")[1]["rollouts"], 30)
        model.go.set()
        row, = served.fetch("/rollouts")[1]["rollouts"]
        if what == "finish":
            assert row["error"] is None and row["reward"] == 1.0 and "call_cancelled" not in row
        else:
            assert row["error_kind"] == "cancelled" and row["call_cancelled"] == "client_gone"
        # The only slot is free again.
        wait_for(lambda: "result" in served.rpc("openenv/session/create"))


def test_production_has_no_orchestration_over_http(tmp_path):
    with serve(tmp_path, "--mode", "Production") as served:
        assert served.fetch("/reset", {})[0] in (404, 405)
        assert served.fetch("/state")[0] in (404, 405)
        assert "/reset" not in served.fetch("/openapi.json")[1]["paths"]
        assert served.rpc("tools/list")["result"]["tools"]


@pytest.mark.parametrize("value, there", [
    (None, False), ("true", True), ("TRUE", True), ("1", True), ("yes", True), ("0", False),
    ("on", False), ("false", False)])
def test_the_page_is_there_when_asked_for_in_openenvs_words(tmp_path, value, there):
    with serve(tmp_path, env={} if value is None else {"ENABLE_WEB_INTERFACE": value}) as served:
        assert (served.fetch("/web/metadata")[0] == 200) is there


def test_the_page_has_its_readme_and_nothing_from_elsewhere(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Hello\n")
    with serve(tmp_path, env={"ENABLE_WEB_INTERFACE": "Yes", "ENV_README_PATH": str(readme)}) as served:
        metadata = served.fetch("/web/metadata")[1]
        assert metadata["name"] == "coding_agent_env" and metadata["readme_content"] == "# Hello\n"
        page = served.fetch("/")[1]
        assert "opencode" in page and "/rollouts" in page
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
