"""Agents' bundles, for tests that look into one or run an agent outside of a sandbox. Only the standard
library is used.
"""

import subprocess
import tomllib

from node_sdks import cache_directory
from server import BUILD, SOURCE


def bundle(agent):
    """The agent's spec, and where its bundle is; installed if need be."""
    spec = tomllib.loads((SOURCE / "agents" / f"{agent}.toml").read_text())
    subprocess.run([BUILD / "bin" / "sluice", "agents", "install", agent], check=True,
                   stdout=subprocess.DEVNULL)
    found = [path for path in (cache_directory() / "bundles").glob(f"{agent}-{spec['version']}-*")
             if path.is_dir()]
    return spec, max(found, key=lambda path: path.stat().st_mtime)
