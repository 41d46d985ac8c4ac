#!/usr/bin/env python3
"""bench env: our OpenEnv server against OpenEnv's own, in one run. Run by `./dev bench env`.

Both serve an environment of equal content (sluice/env/testing.h, bench/env_reference.py), each pinned
to one core, the client (env_load.cc) to another; 16 connections; rounds alternate, and the medians
count. Requests per second, ours / theirs:

  list_tools_ratio  {"type":"step"} that lists the tools, on /ws    one after the other on each
  http_reset_ratio  POST /reset, a new environment each             connection, as OpenEnv's clients
  mcp_ratio         tools/call of echo over POST /mcp               send them
  ws_state_lockstep_ratio  {"type":"state"} on /ws, in the same way
  ws_state_ratio    {"type":"state"} on /ws, with 32 frames under way on each connection
  rss_mib           of an idle `sluice serve`

An answer to {"type":"state"} costs our server a few microseconds and its client as much or more in
sends and wake-ups, so one after the other it is the client and the kernel that are measured. What
the servers themselves can do shows when frames go together. The servers' CPU per request is in
`context`.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BUILD = REPO / "build" / "release"
PYTHON = REPO / "build" / "venv-openenv" / "bin" / "python"
CONNECTIONS = 16


def pin(cores):
    return lambda: os.sched_setaffinity(0, cores)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, name, arguments, port, cores, cwd=None):
        self.name, self.port = name, port
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, preexec_fn=pin(cores), cwd=cwd)
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit(f"{name} does not start: {arguments}")
                time.sleep(0.05)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return None


# Path, payload, and how many requests each connection has under way.
CASES = {
    "ws_state": ["ws", '{"type":"state"}', 32],
    "ws_state_lockstep": ["ws", '{"type":"state"}', 1],
    "list_tools": ["ws", '{"type":"step","data":{"type":"list_tools"}}', 1],
    "http_reset": ["/reset", "{}", 1],
    "mcp": ["/mcp", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "echo", "arguments": {"message": "hello"}}}), 1],
}


def measure(server, case, seconds, cores):
    """Requests per second, and the server's CPU per request in microseconds."""
    cpu = server.cpu()
    kind, payload, depth = CASES[case]
    done = subprocess.run([BUILD / "bin" / "env_load", str(server.port), kind, payload,
                           str(CONNECTIONS), str(seconds), str(depth)], capture_output=True, text=True,
                          preexec_fn=pin(cores), check=True)
    first, books = map(json.loads, done.stdout.splitlines())
    if first.get("type") == "error" or "error" in first:
        raise SystemExit(f"{server.name} {case}: {first}")
    time.sleep(0.2)  # sessions end
    return books["done"] / books["seconds"], (server.cpu() - cpu) / books["done"] * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds, seconds = (3, 0.5) if quick else (7, 2.0)
    cores = sorted(os.sched_getaffinity(0))
    server_cores, client_cores = ({cores[0]}, set(cores[1:])) if len(cores) > 1 else (set(cores),) * 2
    os.sched_setaffinity(0, client_cores)

    ours_port, theirs_port, serve_port = free_port(), free_port(), free_port()
    ours = Server("ours", [BUILD / "bin" / "env_test_server", "--port", str(ours_port), "--sessions",
                           "16"], ours_port, server_cores)
    theirs = Server("theirs", [PYTHON, "-m", "uvicorn", "env_reference:app", "--port",
                               str(theirs_port), "--log-level", "warning"], theirs_port,
                    server_cores, cwd=REPO / "bench")
    figures, context = {}, {"cores": len(cores), "rounds": rounds, "seconds": seconds,
                            "connections": CONNECTIONS,
                            "machine": platform.machine(), "requests_per_s": {}, "cpu_us": {}}
    versions = subprocess.run(
        [PYTHON, "-c", "import importlib.metadata as m; print(m.version('openenv-core'), "
                       "m.version('fastmcp'), m.version('uvicorn'))"],
        capture_output=True, text=True, check=True).stdout.split()
    context["reference"] = dict(zip(("openenv-core", "fastmcp", "uvicorn"), versions))
    try:
        for case in CASES:
            rates = {"ours": [], "theirs": []}
            costs = {"ours": [], "theirs": []}
            for _ in range(rounds):
                for server in (ours, theirs):
                    rate, cost = measure(server, case, seconds, client_cores)
                    rates[server.name].append(rate)
                    costs[server.name].append(cost)
            medians = {name: statistics.median(values) for name, values in rates.items()}
            cpu = {name: statistics.median(values) for name, values in costs.items()}
            figures[f"{case}_ratio"] = round(medians["ours"] / medians["theirs"], 1)
            context["requests_per_s"][case] = {k: round(v) for k, v in medians.items()}
            context["cpu_us"][case] = {k: round(v, 1) for k, v in cpu.items()}
            print(case, figures[f"{case}_ratio"], context["requests_per_s"][case],
                  context["cpu_us"][case], file=sys.stderr)
    finally:
        ours.stop()
        theirs.stop()
    with tempfile.TemporaryDirectory() as data:
        idle = Server("serve", [BUILD / "bin" / "sluice", "serve", "--port", str(serve_port), "--data",
                                data], serve_port, server_cores)
        time.sleep(1)
        figures["rss_mib"] = round(idle.rss_mib(), 1)
        idle.stop()
    out = REPO / "build" / "bench" / "env.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"figures": figures, "context": context}, indent=2) + "\n")


if __name__ == "__main__":
    main()
