"""Node and the vendors' SDKs for it (node/package.json), installed once through npm into the cache
directory that ./dev uses. Only the standard library is used.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent / "node"


def cache_directory():
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("SLUICE_CACHE_DIR") or pathlib.Path(home) / "sluice")


def node_with_sdks():
    """The Node to run and a directory in which the tests and their packages lie; None without npm.

    The directory is named after what is in it and renamed into place when it is complete, so an
    interrupted installation is never used.
    """
    if shutil.which("npm") is None:
        return None
    package = (HERE / "package.json").read_bytes()
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"node-sdks-{hashlib.sha256(package).hexdigest()[:12]}"
    with open(cache / "node-sdks.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix="node-sdks.") as work:
                inside = pathlib.Path(work) / "packages"
                inside.mkdir()
                (inside / "package.json").write_bytes(package)
                subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock",
                                "--loglevel=error"], cwd=inside, check=True)
                inside.rename(place)
    return place / "node_modules" / "node" / "bin" / "node", place
