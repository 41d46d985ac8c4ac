"""64 rollouts at once for a while: what the engine and its helper hold stays as it is."""

import os
import re
import signal
import statistics
import subprocess
import time
import unittest

from harness import Leftovers, SystemTest, count, end, helper_of, read

SECONDS = count(30, 600)
AT_ONCE = 64


def held(pid):
    """What a process holds: {"rss_mib", "threads", "descriptors"}."""
    status = read(f"/proc/{pid}/status").decode()
    return {"rss_mib": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


class Soak(SystemTest):
    def test_many_at_once(self):
        task = self.task('id = "t"\ninstruction = "x"\nsetup = ["true"]\nverify = ["true"]\n')
        script = self.script('[[rules]]\ntext = "go on"\n')
        before = Leftovers()
        log = open(self.tmp / "out.txt", "w+b")
        self.addCleanup(log.close)
        process = subprocess.Popen(
            self.arguments(task, script, "light", "--repeat", "100000", "--concurrency", str(AT_ONCE)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(end, process)
        samples = {"engine": [], "helper": []}
        most_running = ends = 0
        while (helper := helper_of(process.pid)) is None:
            self.assertIsNone(process.poll(), "it ended by itself")
            time.sleep(0.05)
        began = time.monotonic()
        # A busy machine needs longer for as many.
        while time.monotonic() - began < SECONDS or ends <= AT_ONCE or most_running <= AT_ONCE / 2:
            time.sleep(0.5)
            self.assertIsNone(process.poll(), "it ended by itself")
            samples["engine"].append(held(process.pid))
            samples["helper"].append(held(helper))
            ends = (self.tmp / "out.txt").read_text().count("reward 1.00, 3 turns")
            metrics = read(self.out / "metrics.prom").decode()
            running = re.search(r"^sluice_rollouts_running (\S+)", metrics, re.M)
            most_running = max(most_running, float(running[1]) if running else 0)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        log.seek(0)
        text = log.read().decode()
        self.assertEqual(process.returncode, 130, text[-2000:])
        self.assertEqual(before.wait_until_none(20), {})

        # The first third is for everything to have been done once.
        for who, rows in samples.items():
            rows = rows[len(rows) // 3:]
            middle, last = rows[:len(rows) // 2], rows[len(rows) // 2:]
            for what in ("rss_mib", "threads", "descriptors"):
                was = statistics.median(row[what] for row in middle)
                now = statistics.median(row[what] for row in last)
                print(f"{who} {what}: {was:.1f}, later {now:.1f}")
                if what == "threads":
                    self.assertEqual(was, now, who)
                elif what == "rss_mib":
                    self.assertLessEqual(now, was * 1.05 + 2, who)
                else:
                    # Rollouts begin and end all the time: as many are open as run just now.
                    self.assertLessEqual(now, was * 1.1 + 8, who)
        self.assertLessEqual(most_running, AT_ONCE)
        lags = re.findall(r'^sluice_loop_lag_seconds\{shard="\d+"\} (\S+)', metrics, re.M)
        self.assertTrue(lags, metrics)
        print("loop lag:", ", ".join(lags), "s")
        ends = text.count("reward 1.00, 3 turns")
        print(f"{ends} rollouts in {time.monotonic() - began:.0f} s")
        self.assertEqual(len(re.findall(r"\d/100000 ", text)), ends, "all ended well")
        self.assertNotIn("failed attempts", text)


if __name__ == "__main__":
    unittest.main()
