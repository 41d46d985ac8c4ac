"""The image of envs/coding_agent_env: built on a Debian made by debootstrap, in a Docker daemon of the
test's own, and started through OpenEnv's client, it gives a rollout's reward. No registry is asked.

Slow, and needs root: the image builds Sluice from its source. The daemon has its own data, socket,
process and mount namespaces, and ends with the test; nothing of it is left.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from serving import HERE, SLOW, SOURCE

GROUP = "sluice-test-image"  # of the containers, below each hierarchy of control groups
GATEWAY = "172.31.254.1"
BASE, IMAGE = "sluice-test-base:1", "coding-agent-env:test"
# The daemon is the first process of its own process namespace: when it goes, all goes.
ALONE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]

pytestmark = [
    pytest.mark.skipif(not SLOW, reason="builds Sluice in a container: ./dev test --slow"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Docker daemon of its own needs root"),
    pytest.mark.skipif(not (shutil.which("dockerd") and shutil.which("debootstrap")),
                       reason="needs dockerd (docker.io) and debootstrap"),
]


class Docker:
    """A daemon. Containers of one in the host's network reach registries of packages, those of one
    that is `alone` have a bridge of their own."""

    def __init__(self, place, alone):
        self.socket = place / "socket"
        self.log = (place / "log").open("a")
        options = ["--data-root", place / "data", "--exec-root", place / "exec", "--pidfile",
                   place / "pid", "--host", f"unix://{self.socket}", "--cgroup-parent", f"/{GROUP}",
                   "--iptables=false", "--ip6tables=false", "--ip-forward=false",
                   *(["--bip", f"{GATEWAY}/24"] if alone else ["--bridge", "none"])]
        network = ["--net"] if alone else []
        script = "ip link set lo up && exec dockerd \"$@\"" if alone else "exec dockerd \"$@\""
        self.process = subprocess.Popen(
            [*ALONE, *network, "sh", "-c", script, "sh", *map(str, options)],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.variables = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}",
                          "DOCKER_BUILDKIT": "0"}
        end = time.monotonic() + 60
        while subprocess.run(["docker", "version"], env=self.variables, capture_output=True,
                             check=False).returncode != 0:
            assert self.process.poll() is None and time.monotonic() < end, "dockerd does not start"
            time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # In order first, so that its mounts and containers are gone.
        for child in self.children():
            os.kill(child, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def children(self):
        pid = self.process.pid
        return [int(word) for word in pathlib.Path(
            f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def run(self, *arguments, **more):
        return subprocess.run(["docker", *map(str, arguments)], env=self.variables, check=True,
                              **more)

    def inside(self, *arguments, **more):
        """A command in the daemon's network."""
        return subprocess.run(["nsenter", "--net", "--target", str(self.children()[0]), "--",
                               *map(str, arguments)], env=self.variables, **more)


@pytest.fixture
def place():
    # Not pytest's own: containerd adds some 40 bytes to it, and sockets' names end at 107.
    made = pathlib.Path(tempfile.mkdtemp(prefix="sluice-image-"))
    yield made
    for group in pathlib.Path("/sys/fs/cgroup").glob(f"**/{GROUP}"):
        with contextlib.suppress(OSError):
            group.rmdir()
    shutil.rmtree(made)


def base_image(docker, root):
    made = subprocess.run([SOURCE / "tests" / "fresh_root" / "run.sh", "--make", root], check=True,
                          capture_output=True, text=True)
    changes = [word for line in made.stdout.splitlines() for word in ("--change", f"ENV {line}")]
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        docker.run("import", *changes, "-", BASE, stdin=tar.stdout, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def test_the_image_gives_a_rollouts_reward_through_from_docker_image(place):
    context = place / "context"
    context.mkdir()
    archive = subprocess.run(["git", "-C", SOURCE, "-c", "safe.directory=*", "archive", "HEAD"],
                             check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", context, "-x"], input=archive, check=True)
    root = place / "root"
    root.mkdir()
    with Docker(place, alone=False) as docker:
        base_image(docker, root)
        docker.run("build", "--network", "host", "--build-arg", f"BASE={BASE}", "--tag", IMAGE,
                   "--file", context / "envs" / "coding_agent_env" / "Dockerfile", context,
                   stdout=docker.log, stderr=docker.log)
    with Docker(place, alone=True) as docker:
        done = docker.inside(sys.executable, HERE / "image_rollout.py", IMAGE, GATEWAY,
                             capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        left = docker.run("ps", "--all", "--quiet", capture_output=True, text=True).stdout
    result = json.loads(done.stdout)
    assert result["error"] is None and result["reward"] == 1.0, result
    assert result["backend"] == "local" and left == ""
