"""A killed engine leaves nothing: no process, mount, cgroup or temporary file, after at most the
guest's lease."""

import json
import random
import subprocess
import time
import unittest

from harness import Leftovers, SystemTest, count, end, processes_with

LEASE_S = 10
SLACK_S = 5  # for a loaded machine to get round to it

SCRIPT = """
[[rules]]
text = "hello"
delay_s = 0.2
"""


class Killed(SystemTest):
    def test_sigkill_at_random_points_of_a_rollout(self):
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
        for kill in range(count(20, 200)):
            point = generator.uniform(0, whole * 1.05)
            mark = f"system-test-mark-{generator.getrandbits(64):x}"
            process = subprocess.Popen(self.arguments(task, policy, "caller"),
                                       env={"MARK": mark, "PATH": "/usr/bin:/bin", "HOME": str(self.tmp)},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            self.addCleanup(end, process)
            time.sleep(point)
            process.kill()
            process.wait()
            left = before.wait_until_none(LEASE_S + SLACK_S)
            self.assertEqual(left, {}, f"kill {kill} after {point:.3f} of {whole:.3f} s")
            self.assertEqual(processes_with(mark), [], f"kill {kill} after {point:.3f} s")

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
        self.assertEqual(before.wait_until_none(2), {})


if __name__ == "__main__":
    unittest.main()
