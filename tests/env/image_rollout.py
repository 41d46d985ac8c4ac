"""A rollout in the image, started as OpenEnv's users start images: from_docker_image of OpenEnv's own
client, with the options that the environment's README gives for `docker run`. Prints the result.

    image_rollout.py IMAGE HOST     HOST is an address of this machine that containers reach

test_docker_image.py runs it where the container's port is: in its daemon's network.
"""

import asyncio
import json
import subprocess
import sys

from openenv.core.containers.runtime.providers import LocalDockerProvider
from openenv.core.mcp_client import MCPToolClient

from upstream import Upstream

OPTIONS = ["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]
KEY = "sk-upstream-key-0123456789"
TURNS = (("write", {"filePath": "/home/user/workdir/hello.py", "content": "print('hello')\n"}),
         "I wrote hello.py.")


class Provider(LocalDockerProvider):
    """OpenEnv's, whose start_container() has no place for options of `docker run`. The image listens
    on every address, so a model endpoint of a private one has to be configured."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    def start_container(self, image, port=None, env_vars=None, **_):
        self._container_name = self._generate_container_name(image)
        port = port or self._find_available_port()
        self._container_id = subprocess.run(
            ["docker", "run", "-d", "--name", self._container_name, "-p", f"{port}:8000", *OPTIONS,
             "-e", f"VLLM_URL={self._model.url}", image], capture_output=True, text=True, check=True).stdout.strip()
        return f"http://localhost:{port}"


class Client(MCPToolClient):
    def __init__(self, **options):
        super().__init__(message_timeout_s=600, **options)


async def main(image, host):
    with Upstream(*TURNS, key=KEY, host=host) as model:
        env = await Client.from_docker_image(image, provider=Provider(model))
        try:
            await env.reset()
            print(await env.call_tool(
                "run_rollout", agent="opencode", base_url=model.url, api_key=KEY, model="m",
                instruction="Write hello.py, which prints hello.",
                verify=["python3 hello.py | grep -x hello"]))
        finally:
            await env.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
