"""`sluice serve` as a command: where its settings come from, who may talk to it, how it ends."""

import concurrent.futures
import json
import re
import signal
import subprocess
import time
import urllib.request

import pytest

from openenv_clients import client
from serving import BUILD, SOURCE, Served
from upstream import Upstream

AGENTS = SOURCE / "tests" / "system" / "agents"
KEY = "a-key-of-some-length"
CALL = {"post": '{"model":"m","messages":[{"role":"user","content":"hi"}]}'}


def serve(tmp_path, *flags, **more):
    return Served("sluice", "serve", "--port", 0, "--data", tmp_path / "data", "--agents-dir", AGENTS,
                  *flags, **more)


def refused(*flags, env=None):
    import os

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

    assert capacity() == (1, 7)
    assert capacity(env={"MAX_CONCURRENT_ENVS": "2", "SLUICE_MAX_ROLLOUTS": "8"}) == (2, 8)
    assert capacity("--max-sessions", 3, env={"MAX_CONCURRENT_ENVS": "2"}) == (3, 7)


@pytest.mark.parametrize("text, said", [
    ("max_sessions = 0", "serve.toml:1: max_sessions"), ("\nbogus = 1", "serve.toml:2: bogus"),
    ('network = "wifi"', "serve.toml:1: network"), ("[limits]\nmemory_mb = 'x'", "limits.memory_mb"),
])
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path, text, said):
    config = tmp_path / "serve.toml"
    config.write_text(text)
    assert said in refused("--config", config)


@pytest.mark.parametrize("flags, said", [
    (["--max-sessions", "0"], "--max-sessions"), (["--drain-s", "-1"], "--drain-s"),
    (["--mode", "half"], "mode"), (["--key-file", "/nonexistent"], "key file"),
    (["--network", "open"], "--key-file"),
    (["--host", "not an address"], "address"),
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
    for name in ("MAX_CONCURRENT_ENVS", "ENABLE_WEB_INTERFACE", "ENV_README_PATH", "E2B_API_KEY",
                 "VLLM_URL", "VLLM_API_KEY", "VLLM_MODEL", "OPENAI_API_KEY", "HF_ROUTER_API_KEY",
                 "SLUICE_KEYS", "--no-keys", "--drain-s", "--network", "max_sessions = "):
        assert name in text, name
    # Whatever variable of ours, or of the desktop's directories, some source reads.
    sources = "".join(path.read_text() for path in (SOURCE / "sluice").rglob("*.cc")
                      if not path.stem.endswith(("_test", "_fuzz", "_bench"))
                      and "conformance" not in path.parts)
    for name in set(re.findall(r'"(SLUICE_[A-Z_]+|XDG_[A-Z_]+)"', sources)):
        assert name in text, name
    # What the file knows and flags do not is told at the end.
    source = (SOURCE / "sluice" / "cli" / "serve_settings.cc").read_text()
    keys = set(re.findall(r'file_\.(?:seconds|integer|boolean|string|strings|one_of|number)\("(\w+)"',
                          source)) | set(re.findall(r'limit\("(\w+)"', source))
    for key in keys:
        assert key in text or "--" + key.replace("_", "-") in text, key


def test_an_env_file_comes_behind_the_environment(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# models\nexport VLLM_URL='http://gpu:8000'\nOPENAI_API_KEY=\"k\"\n"
                    "HF_ROUTER_API_KEY=of-the-file\n")
    with serve(tmp_path, "--env-file", file, env={"VLLM_URL": ""}) as served:
        rows = {row["kind"]: row["configured"] for row in served.fetch("/metadata")[1]["endpoints"]}
    assert rows == {"vllm": True, "openai": True, "hf_router": True}


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


def test_beyond_loopback_it_wants_keys_or_plain_words(tmp_path):
    said = refused("--port", 0, "--host", "0.0.0.0", "--data", tmp_path / "data")
    assert "key" in said
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
    end = time.monotonic() + 20
    while not served.fetch("/rollouts?state=running")[1]["rollouts"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_production_has_no_orchestration_over_http(tmp_path):
    with serve(tmp_path, "--mode", "Production") as served:
        assert served.fetch("/reset", {})[0] in (404, 405)
        assert served.fetch("/state")[0] in (404, 405)
        assert "/reset" not in served.fetch("/openapi.json")[1]["paths"]
        assert served.rpc("tools/list")["result"]["tools"]


def test_the_page_is_there_when_asked_for(tmp_path):
    with serve(tmp_path) as served:
        assert served.fetch("/web/metadata")[0] == 404
    readme = tmp_path / "README.md"
    readme.write_text("# Hello\n")
    with serve(tmp_path, env={"ENABLE_WEB_INTERFACE": "Yes", "ENV_README_PATH": str(readme)}) as served:
        metadata = served.fetch("/web/metadata")[1]
        assert metadata["name"] == "coding_agent_env" and metadata["readme_content"] == "# Hello\n"
        page = served.fetch("/")[1]
        assert "opencode" in page and "/rollouts" in page
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
