"""Whoever is killed leaves nothing: no process, mount, cgroup or temporary file, after at most the
guest's lease."""

import collections
import itertools
import json
import os
import random
import signal
import subprocess
import time
import unittest

from harness import (Leftovers, SystemTest, count, descendants, end, helper_of, parent_of,
                     processes_with, read)

LEASE_S = 10
SLACK_S = 20  # for a loaded machine to get round to it

SCRIPT = """
[[rules]]
text = "hello"
delay_s = 0.2
"""


def guests_of(helper):
    """The first processes of its sandboxes, without those that it has begun for nobody yet."""
    return [pid for pid in descendants(helper)
            if parent_of(pid) == helper and b"sluice-guest" in read(f"/proc/{pid}/cmdline")]


class Killed(SystemTest):
    def find(self, role, engine):
        """The process of that role in the one rollout that `engine` runs, if it is there now."""
        if role == "engine":
            return engine
        helper = helper_of(engine)
        if role == "helper" or helper is None:
            return helper
        guests = guests_of(helper)
        if role == "guest":
            return guests[0] if guests else None
        for guest in guests:
            for pid in descendants(guest):
                if b"caller.py" in read(f"/proc/{pid}/cmdline"):
                    return pid
        return None

    def check_end(self, role, code, where):
        """What may be told of a rollout after `role` was killed: what happened."""
        file = self.out / "result.json"
        if not file.exists():
            # A helper that dies before it is ready is an engine that cannot start.
            self.assertIn(role, ("engine", "helper"), where)
            self.assertNotEqual(code, 0, where)
            return "nothing"
        result = json.loads(file.read_text())  # whole, or not there
        kind = result["error_kind"]
        if kind is None:
            # It was over before, or the process was not needed any more.
            self.assertEqual((result["reward"], result["agent_exit_code"]), (1.0, 0), where)
        elif kind == "infrastructure":
            self.assertIn(role, ("helper", "guest"), where)
            self.assertIsNone(result["reward"], where)
            self.assertEqual(code, 69, where)
        else:
            # What it did is verified all the same, unless it never came to its first call.
            self.assertEqual(role, "agent", where)
            self.assertEqual((kind, result["reward"]), ("agent", 1.0) if result["llm"]["calls"] else
                             ("gate_never_called", None), where)
            self.assertEqual(result["agent_ended"], "killed by signal 9", where)
        return kind or "whole"

    def test_sigkill_of_anybody_at_random_points_of_a_rollout(self):
        """Engine, helper, guest or agent: nothing is left and no result invented."""
        chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        leave = "setsid sh -c 'trap : TERM HUP INT; while :; do sleep 1; done' >/dev/null 2>&1 & sleep 0.1"
        steps = json.dumps([{"run": leave}, {"post": chat}, {"post": chat}])
        task = self.task(f"""
setup = ["sleep 0.1", "setsid sleep 1000 & true"]
instruction = '''{steps}'''
verify = ["sleep 0.1", "setsid sleep 1000 & true"]
""")
        policy = self.script(SCRIPT)
        generator = random.Random(2026)
        whole = time.monotonic()
        self.run_rollout(task, policy, "caller")
        whole = time.monotonic() - whole
        before = Leftovers()
        seen = collections.Counter()
        hits = 0
        # Kills that hit nobody show nothing: more are made.
        for kill in itertools.count():
            if kill >= count(20, 500) and 2 * hits >= count(20, 500):
                break
            role = ("engine", "helper", "guest", "agent")[kill % 4]
            point = generator.uniform(0, whole * 1.05)
            mark = f"system-test-mark-{generator.getrandbits(64):x}"
            process = subprocess.Popen(self.arguments(task, policy, "caller"),
                                       env={"MARK": mark, "PATH": "/usr/bin:/bin", "HOME": str(self.tmp)},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            self.addCleanup(end, process)
            began = time.monotonic()
            try:
                process.wait(point)
                whole = time.monotonic() - began  # the machine is less busy than it was
                pid = None
            except subprocess.TimeoutExpired:
                pid = self.find(role, process.pid)
            try:
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pid = None
            if pid is None:
                role = "nobody"
            hits += role != "nobody"
            where = f"kill {kill}, of {role} after {point:.3f} of {whole:.3f} s"
            # It ends by itself, whoever else was killed.
            code = process.wait(60)
            seen[role, self.check_end(role, code, where)] += 1
            left = before.wait_until_none(LEASE_S + SLACK_S)
            self.assertEqual(left, {}, where)
            self.assertEqual(processes_with(mark), [], where)
        print(dict(seen))

    def test_sigkills_in_a_batch_cost_attempts_and_no_results(self):
        """A dead guest is one failed attempt, which is made again; every other rollout is as it was."""
        chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        task = self.task(f"""
id = "t"
instruction = '''{json.dumps([{"post": chat}, {"sleep": 0.2}])}'''
verify = ["true"]
""")
        generator = random.Random(2026)
        before = Leftovers()
        process = subprocess.Popen(
            self.arguments(task, self.script(SCRIPT), "caller", "--repeat", str(count(16, 100)),
                           "--concurrency", "3", "--retries", "50"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(end, process)
        killed = 0
        while killed < count(6, 60) and process.poll() is None:
            time.sleep(generator.uniform(0.05, 0.3))
            helper = helper_of(process.pid)
            guests = guests_of(helper) if helper else []
            if guests:
                os.kill(generator.choice(guests), signal.SIGKILL)
                killed += 1
        code = process.wait(300)
        lines = [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]
        self.assertEqual(sorted(line["name"] for line in lines),
                         sorted(f"t@{i}" for i in range(1, count(16, 100) + 1)))
        failed = 0
        for line in lines:
            self.assertEqual((line["result"]["reward"], line["result"]["error_kind"]), (1.0, None), line)
            failed += len(line["failed_attempts"])
        self.assertEqual(code, 0)
        # A guest that died when its rollout was over cost nothing.
        self.assertLessEqual(failed, killed)
        self.assertGreater(failed, 0)
        self.assertEqual(before.wait_until_none(LEASE_S + SLACK_S), {})

    def test_a_dead_helper_ends_a_batch_that_can_be_resumed(self):
        chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        task = self.task(f"""
id = "t"
instruction = '''{json.dumps([{"post": chat}])}'''
verify = ["true"]
""")
        flags = ["--repeat", "130", "--concurrency", "3", "--retries", "0"]
        arguments = self.arguments(task, self.script(SCRIPT), "caller", *flags)
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.addCleanup(end, process)
        for _ in range(2):
            process.stderr.readline()
        os.kill(helper_of(process.pid), signal.SIGKILL)
        err = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 69, err[-2000:])
        self.assertIn(b"gave up after 100 failed attempts in a row", err)
        results = [json.loads(line)["result"]
                   for line in (self.out / "results.jsonl").read_text().splitlines()]
        self.assertLess(len(results), 130)
        for result in results:
            self.assertIn((result["error_kind"], result["reward"]),
                          ((None, 1.0), ("infrastructure", None)))
        done = subprocess.run([*arguments, "--resume"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertRegex(done.stdout, r"(?m)^t +130 +1\.000 +130/130")

    def test_ctrl_c_cancels_and_cleans_up(self):
        task = self.task('instruction = "x"\nverify = ["true"]\n')
        before = Leftovers()
        process = subprocess.Popen(self.arguments(task, self.script(SCRIPT), "sleeper"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        self.addCleanup(end, process)
        for line in process.stderr:
            if b"] agent" in line:
                break
        time.sleep(0.2)
        # As a terminal does: to the whole foreground group, the engine's helpers included.
        subprocess.run(["kill", "-INT", "--", f"-{process.pid}"], check=True)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn(b"cancelled", out)
        result = json.loads((self.out / "result.json").read_text())
        self.assertEqual(result["error_kind"], "cancelled")
        self.assertIsNone(result["reward"])
        self.assertEqual(before.wait_until_none(SLACK_S), {})


if __name__ == "__main__":
    unittest.main()
