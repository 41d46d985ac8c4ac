#!/usr/bin/env python3
"""What the engine adds to a rollout, and what a group saves. `./dev bench rollout [--quick]`

An agent that exits at once is run by `sluice run`, one rollout after the other, and the same binary
bare beside it; the overhead is the difference. Then a task with some preparation (40 files, a set-up
command that compiles them) is run as a group and without one: a clone against full preparation. Last, a
workdir of 32 files is judged where the agent was and in a fresh sandbox, in turns: what the latter costs.

Writes build/bench/rollout.json. Reads the times that the results themselves tell.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
SLUICE = os.environ.get("SLUICE", str(REPO / "build" / "release" / "bin" / "sluice"))
PROGRAM = "/bin/true"

AGENT = f"""
name = "nothing"
version = "1"
description = "exits at once"
[install]
commands = ["true"]
program = "{PROGRAM}"
[run]
command = ["{{program}}"]
[dialects.chat]
path = "/v1"
"""
SCRIPT = '[[rules]]\ntext = "never asked"\n'
PREPARED = 'id = "prepared"\ninstruction = "x"\nsetup = ["python3 -m compileall -q lib"]\n' + "".join(
    f"""
[[files]]
path = "lib/module_{i}.py"
content = '''
def f_{i}(items):
    \"\"\"Nothing of use.\"\"\"
    return [item * {i} for item in items if item % 2 == 0]
'''
""" for i in range(40))

JUDGED = 'id = "judged"\ninstruction = "x"\n[verify]\ncommands = ["true"]\nwhere = "{where}"\n' + "".join(
    f'[[files]]\npath = "src/file_{i}.txt"\ncontent = "{"some text of the task " * 20}"\n' for i in range(32))


def bare(count):
    """How long the program takes without us, in ms."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        pid = os.posix_spawn(PROGRAM, [PROGRAM], {})
        os.waitpid(pid, 0)
        times.append((time.perf_counter() - began) * 1e3)
    return times


def run(folder, task, *flags):
    """The results of a batch, and how long it took as a whole."""
    out = folder / f"out-{time.monotonic_ns()}"
    began = time.monotonic()
    done = subprocess.run([SLUICE, "run", folder / task, "--agent", folder / "agent.toml", "--policy",
                           f"script:{folder / 'script.toml'}", "--json", "--out", out, *map(str, flags)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    results = [json.loads(line)["result"] for line in done.stdout.splitlines()]
    for result in results:
        # The agent calls nobody; anything else is no measurement.
        if result is None or result["error_kind"] != "gate_never_called":
            sys.exit(f"bench rollout: a rollout went wrong: {result and result['error']}\n{done.stderr}")
    return results, took


def phases(result, *names):
    """What the phases took together, in ms."""
    return sum(row["took_s"] for row in result["phases"] if row["phase"] in names) * 1e3


def percentiles(name, values):
    values = sorted(values)

    def at(share):
        return round(values[min(len(values) - 1, int(share * len(values)))], 3)

    return {f"{name}_median": round(statistics.median(values), 3), f"{name}_p95": at(0.95),
            f"{name}_p99": at(0.99)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rollouts")
    quick = parser.parse_args().quick
    rounds, each, clones = (3, 40, 40) if quick else (5, 200, 100)
    load = os.getloadavg()[0]
    figures = {}
    with tempfile.TemporaryDirectory(prefix="rollout-bench-") as name:
        folder = pathlib.Path(name)
        (folder / "agent.toml").write_text(AGENT)
        (folder / "script.toml").write_text(SCRIPT)
        (folder / "nothing.toml").write_text('id = "nothing"\ninstruction = "x"\n')
        (folder / "prepared.toml").write_text(PREPARED)
        for where in ("same", "fresh"):
            (folder / f"{where}.toml").write_text(JUDGED.replace("{where}", where))
        run(folder, "nothing.toml", "--repeat", 5)

        walls, alone, rows = [], [], []
        for _ in range(rounds):
            alone += bare(each)
            results, _ = run(folder, "nothing.toml", "--repeat", each, "--concurrency", 1)
            walls += [result["wall_s"] * 1e3 for result in results]
            rows += results
        without = statistics.median(alone)
        figures |= percentiles("rollout_overhead_ms", [wall - without for wall in walls])
        figures["bare_ms_median"] = round(without, 3)
        by_phase = {row["phase"]: round(statistics.median(phases(result, row["phase"])
                                                          for result in rows), 3)
                    for row in rows[0]["phases"]}

        results, took = run(folder, "nothing.toml", "--repeat", 4 * each, "--concurrency", 8)
        figures["rollouts_per_s"] = round(len(results) / took, 1)

        results, _ = run(folder, "prepared.toml", "--group", clones, "--concurrency", 1)
        figures |= percentiles("group_clone_ms", [phases(result, "clone") for result in results])
        results, _ = run(folder, "prepared.toml", "--repeat", clones // 2, "--concurrency", 1)
        figures |= percentiles("group_full_preparation_ms",
                               [phases(result, "create", "install", "upload", "setup")
                                for result in results])

        judged = {"same": [], "fresh": []}
        for _ in range(rounds):
            for where, found in judged.items():
                found += run(folder, f"{where}.toml", "--repeat", each // 2, "--concurrency", 1)[0]
        same = statistics.median(result["wall_s"] * 1e3 for result in judged["same"])
        figures |= percentiles("fresh_verify_overhead_ms",
                               [result["wall_s"] * 1e3 - same for result in judged["fresh"]])
        fresh = {name: round(statistics.median(phases(result, name) for result in judged["fresh"]), 3)
                 for name in ("snapshot", "move")}
    out = {"figures": figures,
           "context": {"rollouts": len(walls), "clones": clones, "cores": os.cpu_count(),
                       "load_average_before": round(load, 2), "quick": quick,
                       "phase_ms_median": by_phase, "fresh_phase_ms_median": fresh,
                       "overhead_ms_least": round(min(walls) - without, 3),
                       "program": PROGRAM,
                       "preparation": "40 files, compiled by one setup command"}}
    target = REPO / "build" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    (target / "rollout.json").write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
