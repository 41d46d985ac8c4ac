#!/usr/bin/env python3
"""The gate against its peers, in one run: bench/aiohttp_gate.py on Debian's aiohttp, and a bare server
on our own library. Server and client have a core each. What counts is the server's CPU per call, from
its own getrusage; rounds alternate between the servers, and the median of the rounds' ratios is told.
The load never sleeps: how often a server would have to wake it depends on how fast that server is.

Beside that, of the gate alone:

* fairness_512: 512 rollouts on one shard, answered by one trainer that takes 8 calls at a time and is the
  bottleneck. 511 of them keep one call open each, the other floods the gate with 256. Of the calls of
  the 511: the longest wait, from the request to the whole answer, divided by the median wait.
* cancel_wake_ms_max: the longest time from Trainer::cancel() on one shard's thread until the agent of a
  call that was parked on another has the first byte of what it is told; plain and streamed calls in turn.

Writes build/bench/gate.json: figures, and in `context` the absolute numbers.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
BIN = pathlib.Path(os.environ.get("SLUICE_BUILD_DIR") or BUILD / "release") / "bench"
QUICK = "--quick" in sys.argv
PATH = "/rollout/r0/v1/chat/completions"
PYTHON = "/usr/bin/python3"  # Debian's, with Debian's aiohttp
KEY = "s3cret"
CORES = sorted(os.sched_getaffinity(0))
SIZES = {"4k": 4096, "128k": 128 * 1024}


def pinned(core, command, **more):
    return subprocess.Popen(command, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                            **more)


class Ours:
    def __init__(self, *arguments):
        self.process = pinned(CORES[0], [BIN / "gate_bench_server", *arguments],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def fresh(self):
        """Without the last round's trace, whose pages the kernel can use again: memory that it never
        used before is the virtual machine's cost, many times the gate's."""
        self.process.stdin.write("fresh\n")
        self.process.stdin.flush()
        self.port = int(self.process.stdout.readline())

    def used(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["cpu_s"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


class Reference:
    port = 18765

    def __init__(self):
        self.process = pinned(CORES[0], [PYTHON, HERE / "aiohttp_gate.py", "--port", str(self.port),
                                         "--key", KEY], stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def fresh(self):
        pass

    def used(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as answer:
            return json.load(answer)["cpu_s"]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


def load(server, connections, size, calls):
    """CPU per call in microseconds, and what the client saw."""
    command = [BIN / "gate_bench_load", str(server.port), PATH, str(connections), str(size),
               str(calls), KEY]
    before = server.used()
    done = pinned(CORES[-1], command, stdout=subprocess.PIPE)
    seen, _ = done.communicate(timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"the load failed against {server}")
    seen = json.loads(seen)
    return (server.used() - before) * 1e6 / seen["calls"], seen


def median(values):
    return round(statistics.median(values), 4)


def cpu_per_call(figures, context, traces):
    rounds = 5 if QUICK else 15
    servers = {"aiohttp": Reference(), "bare": Ours("bare"),
               "gate": Ours("gate", "inline", f"{traces}/inline"),
               "gate_with_trainer": Ours("gate", "trainer", f"{traces}/trainer"),
               "gate_without_recording": Ours("gate", "inline")}
    # Enough for each round to take about a second.
    calls = {("aiohttp", "4k"): 2000, ("aiohttp", "128k"): 400}
    try:
        took = {name: {server: [] for server in servers} for name in SIZES}
        # Sizes in turn: a stretch of seconds in which the machine is slower spoils some rounds of
        # each, rather than all of one.
        for each in range(rounds + 1):
            for name, size in SIZES.items():
                for server, process in servers.items():
                    count = calls.get((server, name), 20000 if name == "4k" else 4000)
                    process.fresh()
                    cpu, _ = load(process, 16, size, count // (4 if QUICK else 1))
                    if each > 0:  # the first is for caches and pages
                        took[name][server].append(cpu)
        for name in SIZES:
            context[f"cpu_us_per_call_{name}"] = {s: median(v) for s, v in took[name].items()}

            def ratio(ours, theirs, seen=took[name]):
                return median([a / b for a, b in zip(seen[ours], seen[theirs])])

            # Like for like: the reference has a trainer's thread, the bare server has none.
            figures[f"cpu_ratio_vs_aiohttp_{name}"] = ratio("gate_with_trainer", "aiohttp")
            figures[f"cpu_ratio_vs_bare_{name}"] = ratio("gate", "bare")
            context[f"cpu_ratio_of_recording_{name}"] = ratio("gate", "gate_without_recording")
        figures["cpu_ratio_vs_bare"] = max(figures.pop(f"cpu_ratio_vs_bare_{n}") for n in SIZES)
        context["cpu_ratio_vs_bare"] = "the worse of 4 KiB and 128 KiB bodies"
    finally:
        for server in servers.values():
            server.stop()


def tail(figures, context, traces):
    """p99 with 512 agents of 128 KiB in flight."""
    rounds = 3 if QUICK else 5
    p99 = {"aiohttp": [], "gate_with_trainer": []}
    for each in range(rounds):
        for name in p99:
            server = Reference() if name == "aiohttp" else Ours("gate", "trainer", f"{traces}/p{each}")
            try:
                calls = 1024 if name == "aiohttp" else 4096
                load(server, 512, SIZES["128k"], calls)  # for caches and pages
                server.fresh()
                p99[name].append(load(server, 512, SIZES["128k"], calls)[1]["p99_ms"])
            finally:
                server.stop()
    context["p99_ms_512x128k"] = {name: median(values) for name, values in p99.items()}
    figures["p99_ratio_vs_aiohttp_512x128k"] = median(
        [a / b for a, b in zip(p99["gate_with_trainer"], p99["aiohttp"])])


def parked(figures, context):
    command = [BIN / "gate_bench_server", "parked", "50000", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    seen = json.loads(done.stdout)
    figures["parked_calls"] = seen["parked"]
    figures["parked_bytes_per_call"] = round(
        (seen["grown_bytes"] - seen["body_bytes"]) / max(1, seen["parked"]))
    context["parked"] = dict(seen, carried="1000 calls over the multiplexed link of each guest")


def fairness(figures, context):
    command = [BIN / "gate_bench_server", "fairness", "512", "256", "5" if QUICK else "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    seen = json.loads(done.stdout)
    figures["fairness_512"] = round(seen["worst_ms"] / seen["median_ms"], 3)
    context["fairness_512"] = seen


def cancel_wake(figures, context):
    command = [BIN / "gate_bench_server", "cancel", "50" if QUICK else "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    seen = json.loads(done.stdout)
    figures["cancel_wake_ms_max"] = seen["max_ms"]
    context["cancel_wake"] = seen


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures, context = {}, {"quick": QUICK, "cores": len(CORES), "files_limit": hard,
                            "method": __doc__.split("\n\n")[0]}
    version = subprocess.run([PYTHON, "-c", "import aiohttp; print(aiohttp.__version__)"],
                             capture_output=True, text=True, check=True)
    context["aiohttp"] = version.stdout.strip()
    with tempfile.TemporaryDirectory(prefix="gate-bench-") as traces:
        cpu_per_call(figures, context, traces)
        tail(figures, context, traces)
    parked(figures, context)
    fairness(figures, context)
    cancel_wake(figures, context)
    out = BUILD / "bench" / "gate.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"figures": figures, "context": context}, indent=1) + "\n")


if __name__ == "__main__":
    main()
