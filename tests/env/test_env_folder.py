"""envs/coding_agent_env as OpenEnv's tools take it: its entry points, what it needs from outside, and
the server that each way of starting it comes to.
"""

import asyncio
import importlib
import os
import re
import socket
import subprocess
import sys
import tomllib
import urllib.request

import pytest
import yaml

from openenv.core.mcp_client import MCPToolClient
from serving import BUILD, SOURCE

FOLDER = SOURCE / "envs" / "coding_agent_env"
SLUICE = str(BUILD / "bin" / "sluice")
ADDRESS = ["--host", "0.0.0.0"]


@pytest.fixture(scope="module")
def app():
    """The module as it is imported where the folder is installed."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("server.app")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("arguments, variables, comes_to", [
    ([], {}, [*ADDRESS, "--no-keys"]),
    (["--port", "9"], {}, [*ADDRESS, "--no-keys", "--port", "9"]),
    (["--host", "127.0.0.1"], {}, ["--no-keys", "--host", "127.0.0.1"]),
    (["--host=::"], {"SLUICE_KEYS": ""}, ["--no-keys", "--host=::"]),
    ([], {"SLUICE_HOST": "10.0.0.1"}, ["--no-keys"]),
    (["--key-file", "k"], {}, [*ADDRESS, "--key-file", "k"]),
    (["--no-keys"], {}, [*ADDRESS, "--no-keys"]),
    ([], {"SLUICE_KEYS": "k"}, ADDRESS),
    ([], {"SLUICE_KEY_FILE": "k"}, ADDRESS),
    # A file of settings may have keys, which no flag must switch off.
    (["--config", "c.toml"], {}, ["--config", "c.toml"]),
    (["--env-file=.env"], {}, ["--env-file=.env"]),
    ([], {"SLUICE_CONFIG": "c.toml"}, []),
])
def test_it_is_served_as_in_the_image_unless_told_otherwise(app, arguments, variables, comes_to):
    variables = {"SLUICE_BINARY": "/opt/sluice", **variables}
    assert app.command(arguments, variables) == ["/opt/sluice", "serve", *comes_to]


def test_without_the_program_it_says_what_to_do(app, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit, match="SLUICE_BINARY"):
        app.command([], {})


def test_its_entry_points_are_there(app):
    manifest = yaml.safe_load((FOLDER / "openenv.yaml").read_text())
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    for entry in (manifest["app"], project["project"]["scripts"]["server"]):
        module, name = entry.split(":")
        assert module.split(".")[0] in project["tool"]["setuptools"]["packages"]
        assert callable(getattr(importlib.import_module(module), name))
    wanted = {re.match(r"[\w-]+", row).group() for row in project["project"]["dependencies"]}
    assert wanted == {"openenv-core", "uvicorn"}


def test_finding_61_the_server_imports_nothing_of_a_client():
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import server.app;"
              "print([m for m in sys.modules if m.split('.')[0] in ('openenv', 'coding_agent_env')])")
    done = subprocess.run([sys.executable, "-c", script, FOLDER], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_it_leads_out_of_it():
    """OpenEnv's tools copy the folder and nothing else."""
    for file in FOLDER.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert "../" not in file.read_text(), file
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    assert copied == ["."]


def test_the_image_takes_its_source_from_elsewhere_if_the_folder_is_all_there_is(tmp_path):
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", "")
    script = next(line.removeprefix("RUN ") for line in text.splitlines() if "git clone" in line)
    script = script.replace("/tmp/source", str(tmp_path / "clone"))

    def run(where, **variables):
        return subprocess.run(["sh", "-c", script], cwd=where, capture_output=True, text=True,
                              check=False, env={"PATH": os.environ["PATH"], **variables})

    repository, alone = tmp_path / "repository", tmp_path / "alone"
    repository.mkdir()
    alone.mkdir()
    (repository / "dev").write_text("#!/bin/sh\n")
    (repository / "dev").chmod(0o755)
    (alone / "README.md").write_text("the folder's\n")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "A repository"], check=True)

    assert run(repository, SOURCE="/nonexistent").returncode == 0  # it is the context
    refused = run(alone, SOURCE="")
    assert refused.returncode != 0 and "give its URL" in refused.stderr
    assert run(alone, SOURCE=repository.as_uri()).returncode == 0
    assert os.access(alone / "dev", os.X_OK)


# --- started --------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture
def variables(tmp_path):
    return {"SLUICE_BINARY": SLUICE, "SLUICE_DATA_DIR": str(tmp_path / "data")}


def uvicorn(*arguments, variables):
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "server.app:app", *arguments], cwd=FOLDER, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **variables})


def test_uvicorn_becomes_the_server_on_its_address(variables):
    port = free_port()
    program = uvicorn("--host", "0.0.0.0", "--port", str(port), "--workers", "1",
                      variables=variables)
    try:
        assert program.stdout.readline() == f"listening on 0.0.0.0:{port}\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/web/metadata", timeout=20) as answer:
            assert b'"coding_agent_env"' in answer.read()
    finally:
        program.terminate()
        said = program.communicate(timeout=20)[1]
    assert program.returncode == 0
    assert "WARNING: keys are off" in said


@pytest.mark.parametrize("arguments, why", [
    (["--workers", "2"], "without --workers"), (["--uds", "socket"], "without --workers"),
    (["--port", "0", "--host", "not an address"], "address"),
])
def test_uvicorn_ends_where_that_cannot_be(variables, arguments, why):
    program = uvicorn(*arguments, variables=variables)
    said = program.communicate(timeout=60)[1]
    assert why in said, said  # with several workers uvicorn's own exit code is 0


def test_uvicorn_says_that_the_program_is_missing():
    program = uvicorn("--port", "0", variables={"SLUICE_BINARY": "/nonexistent/sluice"})
    said = program.communicate(timeout=60)[1]
    assert program.returncode != 0 and "/nonexistent/sluice" in said, said


def test_from_env_without_docker_starts_the_folder(tmp_path, monkeypatch, variables):
    # `uv run --isolated --project FOLDER -- uvicorn ...`, in an environment that is there already.
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit\nPYTHONPATH=$4\nexport PYTHONPATH\n"
                  f"shift 5\nexec '{sys.executable}' -m \"$@\"\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def run():
        env = await MCPToolClient.from_env("some/space", use_docker=False, env_vars=variables,
                                           project_path=str(FOLDER))
        process = env._provider._process
        try:
            await env.reset()
            return [tool.name for tool in await env.list_tools()], process
        finally:
            await env.close()

    tools, process = asyncio.run(run())
    assert tools == ["run_rollout"] and process.returncode == 0
