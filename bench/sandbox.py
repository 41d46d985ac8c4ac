#!/usr/bin/env python3
"""What a local sandbox costs, beside what others take on this machine. `./dev bench sandbox [--quick]`

A cycle is: create, one command, destroy. Our own are made and timed by sandbox_bench_load; the
peers run `/bin/true` in a sandbox of theirs, one after the other, in the same run: unshare (no
set-up at all), bubblewrap, and runc and docker where they are present and work.

stall_30s_lost_sandboxes: eight sandboxes on one shard whose agents call the gate all the time, while no
write of the recorder returns for 30 s: how many sandboxes are lost (stall_bench_load; 12 s with --quick,
which is longer than a guest waits for a sign of life as well).

Writes build/bench/sandbox.json. A figure that could not be measured is null, with the reason in the
context.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
LOAD = REPO / "build" / "release" / "bench" / "sandbox_bench_load"
STALL = LOAD.with_name("stall_bench_load")
MERGED = [word for name in ("bin", "sbin", "lib", "lib64") if os.path.islink(f"/{name}")
          for word in ("--symlink", os.readlink(f"/{name}"), f"/{name}")]
BUBBLEWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", *MERGED,
              "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"]
UNSHARE = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc", "/bin/true"]


def percentiles(name, values):
    values = sorted(values)

    def at(share):
        return round(values[min(len(values) - 1, int(share * len(values)))], 3)

    return {f"{name}_median": round(statistics.median(values), 3), f"{name}_p95": at(0.95),
            f"{name}_p99": at(0.99)}


def time_command(command, count):
    """(milliseconds of each, None) or (None, why not)."""
    if shutil.which(command[0]) is None:
        return None, f"{command[0]} is not installed"
    times = []
    for _ in range(count):
        began = time.perf_counter()
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return None, f"{command[0]} did not end within 60 s"
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return None, f"{command[0]}: {said}"
        times.append((time.perf_counter() - began) * 1e3)
    return times, None


def time_runc(count):
    if shutil.which("runc") is None:
        return None, "runc is not installed"
    with tempfile.TemporaryDirectory(prefix="runc-bench-") as name:
        subprocess.run(["runc", "spec", "--bundle", name], check=True)
        path = pathlib.Path(name, "config.json")
        config = json.loads(path.read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/true"]}
        config["root"] = {"path": "/", "readonly": True}
        path.write_text(json.dumps(config))
        return time_command(["runc", "run", "--bundle", name, f"bench-{os.getpid()}"], count)


def time_docker(count):
    if shutil.which("docker") is None:
        return None, "docker is not installed"
    images = subprocess.run(["docker", "images", "--quiet"], capture_output=True, text=True, check=False)
    if images.returncode != 0:
        return None, "docker: " + (images.stderr.strip().splitlines() or ["no daemon"])[-1]
    if not images.stdout.split():
        return None, "docker has no image here, and none is fetched for a benchmark"
    return time_command(["docker", "run", "--rm", "--network=none", images.stdout.split()[0], "/bin/true"],
                        count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sandboxes")
    quick = parser.parse_args().quick
    cycles, peers = (100, 30) if quick else (500, 200)
    load = os.getloadavg()[0]
    ours = json.loads(subprocess.run([LOAD, str(cycles), "1000"], stdout=subprocess.PIPE, text=True,
                                     check=True).stdout)
    figures = percentiles("local_cycle_ms", ours["cycle_ms"])
    for name in ("create", "first_exec", "exec", "close"):
        figures |= percentiles(f"local_{name}_ms", ours[f"{name}_ms"])
    figures["local_cycles_per_s"] = round(statistics.median(ours["cycles_per_s"]), 1)
    figures["local_idle_mib"] = round(ours["idle_mib"], 3)
    figures["local_alive"] = ours["alive"]
    figures["local_alive_created_per_s"] = round(1e3 * ours["alive"] / ours["alive_made_ms"], 1)
    figures["local_alive_closed_per_s"] = round(1e3 * ours["alive"] / ours["alive_closed_ms"], 1)

    stalled = json.loads(subprocess.run([STALL, "8", "12" if quick else "30"], stdout=subprocess.PIPE,
                                        text=True, check=True).stdout)
    figures["stall_30s_lost_sandboxes"] = stalled["lost_sandboxes"]

    missing = {}
    for name, (times, why) in {"unshare": time_command(UNSHARE, peers),
                               "bubblewrap": time_command(BUBBLEWRAP, peers),
                               "runc": time_runc(peers), "docker": time_docker(min(peers, 20))}.items():
        figures[f"{name}_cycle_ms_median"] = round(statistics.median(times), 3) if times else None
        if why:
            missing[name] = why
    out = {"figures": figures,
           "context": {"cycles": cycles, "at_once_for_cycles_per_s": 4, "cores": os.cpu_count(),
                       "as_root": os.geteuid() == 0, "load_average_before": round(load, 2),
                       "local_cycle_ms_least": round(min(ours["cycle_ms"]), 3),
                       "local_exec_ms_least": round(min(ours["exec_ms"]), 3),
                       "local_cycles_per_s_best": round(max(ours["cycles_per_s"]), 1),
                       "stall": stalled, "quick": quick, "not_measured": missing}}
    target = REPO / "build" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    (target / "sandbox.json").write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
