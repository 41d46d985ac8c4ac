"""Many rollouts: folders of tasks, repeats, results as they end, and going on after a crash."""

import collections
import io
import json
import os
import random
import re
import signal
import subprocess
import tarfile
import time
import unittest

from harness import HERE, Leftovers, SLUICE, SystemTest, count, end

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
SCRIPT = '[[rules]]\ntext = "hello"\n'


def steps(*more):
    return json.dumps([{"post": CHAT}, *more])


class Batch(SystemTest):
    def folder(self, **tasks):
        """A folder of tasks, each in a folder of its own; the values are TOML."""
        folder = self.tmp / "tasks"
        for name, text in tasks.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "task.toml").write_text(text)
            (folder / name / "script.toml").write_text("not = 'a task'")
        return folder

    def command(self, tasks, *flags, out=None):
        return self.arguments(tasks, self.script(SCRIPT), "caller", *flags, out=out)

    def run_batch(self, tasks, *flags, out=None, timeout=120):
        done = subprocess.run(self.command(tasks, *flags, out=out), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout, check=False)
        self.lines = self.read_lines()
        return done

    def read_lines(self):
        file = self.out / "results.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def test_a_folder_of_tasks(self):
        folder = self.folder(
            good=f"instruction = '''{steps()}'''\nverify = ['true']\n",
            half=f"instruction = '''{steps()}'''\nverify = ['true', 'false']\n",
            broken=f"instruction = '''{steps()}'''\nsetup = ['exit 3']\n")
        done = self.run_batch(folder, "--repeat", "3", "--concurrency", "4")
        self.assertEqual(done.returncode, 1, done.stderr)
        names = sorted(line["name"] for line in self.lines)
        self.assertEqual(names, sorted(f"{task}@{i}" for task in ("good", "half", "broken")
                                       for i in (1, 2, 3)))
        for line in self.lines:
            result = line["result"]
            self.assertEqual(result["task_id"], line["task"])
            self.assertEqual(line["failed_attempts"], [])
            wanted = {"good": (1.0, None), "half": (0.5, None), "broken": (None, "task")}
            self.assertEqual((result["reward"], result["error_kind"]), wanted[line["task"]])
            kept = self.out / "rollouts" / line["name"] / "result.json"
            self.assertEqual(json.loads(kept.read_text()), result)
        table = done.stdout
        self.assertRegex(table, r"(?m)^good +3 +1\.000 +3/3")
        self.assertRegex(table, r"(?m)^half +3 +0\.500 +0/3")
        self.assertRegex(table, r"(?m)^broken +3 +null +0/0 .* 3 task$")
        self.assertRegex(table, r"(?m)^all +9 ")
        # Not a terminal: a plain line for each.
        self.assertEqual(len(re.findall(r"(?m)^\[ *\d+\.\d+ s\] \d/9 ", done.stderr)), 9)
        self.assertNotIn("\x1b", done.stderr)
        metrics = (self.out / "metrics.prom").read_text()
        self.assertIn('sluice_loop_lag_seconds{shard="0"}', metrics)
        for file in self.out.rglob("*"):
            if file.is_file():
                self.assertEqual(file.stat().st_mode & 0o077, 0, file)

    def test_a_group_shares_its_preparation(self):
        keep = "setsid sh -c 'while :; do date +%N > /tmp/beat; sleep 0.02; done' >/dev/null 2>&1 & sleep 0.2"
        look = ('test "$(cat made)" = ready; echo made $?; test -e mine; echo mine $?; echo 1 > mine; '
                "echo 1 >> made; touch /tmp/left; ls /tmp; a=$(cat /tmp/beat); sleep 0.1; "
                'test "$a" = "$(cat /tmp/beat)"; echo beat $?; stat -c %u made; id -u')
        task = self.task(f"""
id = "t"
instruction = '''{steps({"run": look})}'''
setup = ["sleep 0.5; echo ready > made; date +%N > stamp", \"\"\"{keep}\"\"\"]
verify = ["true"]
[[files]]
path = "given"
content = "given"
""")
        done = self.run_batch(task, "--group", "4", "--repeat", "2", "--concurrency", "4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.lines), 8)
        stamps = collections.defaultdict(set)
        for line in self.lines:
            result = line["result"]
            self.assertEqual(result["reward"], 1.0)
            self.assertEqual(result["group_id"], line["group"])
            self.assertEqual([row["exit_code"] for row in result["setup_results"]], [0, 0])
            self.assertGreaterEqual(result["preparation_s"], 0.5)
            with open(result["trace"]) as trace:
                self.assertEqual(json.loads(trace.readline())["group"], line["group"])
            output = (self.out / "rollouts" / line["name"] / "agent.stdout").read_text()
            ran = [json.loads(row) for row in output.splitlines() if '"ran"' in row][0]["stdout"]
            # As in a sandbox of its own: what set-up made is there and the agent's, what another
            # attempt made is not, and nothing that set-up left runs.
            self.assertEqual(ran, "made 0\nmine 1\nbeat\nleft\nbeat 0\n1000\n1000\n", line["name"])
            self.assertEqual(result["files"]["given"], "given")
            stamps[line["group"]].add(result["files"]["stamp"])
        self.assertEqual([len(stamp) for stamp in stamps.values()], [1, 1])

    def test_json_lines(self):
        task = self.task(f"id = 't'\ninstruction = '''{steps()}'''\nverify = ['true']\n")
        done = self.run_batch(task, "--repeat", "3", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([json.loads(line) for line in done.stdout.splitlines()], self.lines)
        self.assertEqual(done.stderr, "")

    def test_a_progress_bar_on_a_terminal(self):
        task = self.task(f"id = 't'\ninstruction = '''{steps()}'''\nverify = ['true']\n")
        command = " ".join(f"'{word}'" for word in self.command(task, "--repeat", "4"))
        done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False,
                              env={"TERM": "xterm", "PATH": "/usr/bin:/bin"})
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(b"\r\x1b[K", done.stdout)
        self.assertRegex(done.stdout, rb"#{24} 4/4 ")

    def test_tasks_take_turns(self):
        folder = self.folder(
            many=f"instruction = '''{steps({'sleep': 0.05})}'''\n",
            few=f"instruction = '''{steps({'sleep': 0.05})}'''\n")
        self.run_batch(folder, "--repeat", "4", "--concurrency", "1")
        order = [line["task"] for line in self.lines]
        self.assertEqual(order, ["few", "many"] * 4)

    def test_interrupted_and_resumed(self):
        task = self.task(f"id = 't'\ninstruction = '''{steps({'sleep': 0.5})}'''\nverify = ['true']\n")
        before = Leftovers()
        process = subprocess.Popen(self.command(task, "--repeat", "6", "--concurrency", "2"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        self.addCleanup(end, process)
        process.stderr.readline()  # the first end
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn(b"--resume", out)
        first = self.read_lines()
        self.assertTrue(0 < len(first) < 6, first)
        self.assertEqual(before.wait_until_none(2), {})
        settled = sum(line["result"]["error_kind"] is None for line in first)
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual((summary["ended"], summary["not_run"]), (settled, 6 - settled))
        done = self.run_batch(task, "--repeat", "6", "--concurrency", "2", "--resume", out=self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.lines[: len(first)], first)
        self.assertEqual(sorted(line["name"] for line in self.lines), [f"t@{i}" for i in range(1, 7)])
        self.assertIn(f"resuming: {len(first)} of 6 had ended", done.stderr)

    def test_what_was_cancelled_has_not_ended(self):
        folder = self.folder(quick=f"instruction = '''{steps()}'''\n",
                             slow=f"instruction = '''{steps({'sleep': 60})}'''\n")
        process = subprocess.Popen(self.command(folder, "--concurrency", "2"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        self.addCleanup(end, process)
        process.stderr.readline()  # the end of the quick one
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertEqual([line["result"]["error_kind"] for line in self.read_lines()],
                         [None, "cancelled"])
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual((summary["rollouts"], summary["ended"], summary["not_run"]), (2, 1, 1))
        self.assertEqual(summary["errors"], {"cancelled": 1})
        self.assertIn(b"1 of 2 are not run", out)

    def test_another_batch_is_not_resumed(self):
        task = self.task(f"id = 't'\ninstruction = '''{steps()}'''\n")
        self.run_batch(task, "--repeat", "2")
        done = self.run_batch(task, "--repeat", "2", out=self.out)
        self.assertEqual(done.returncode, 2)
        self.assertIn("holds a batch: go on with it by --resume", done.stderr)
        done = self.run_batch(task, "--repeat", "3", "--resume", out=self.out)
        self.assertEqual(done.returncode, 2)
        self.assertIn("repeat was 2, not 3", done.stderr)
        self.task(f"id = 't'\ninstruction = '''{steps({'sleep': 0})}'''\n")
        done = self.run_batch(task, "--repeat", "2", "--resume", out=self.out)
        self.assertIn("another batch", done.stderr)
        done = self.run_batch(task, "--repeat", "2", "--resume", out=self.tmp / "nothing")
        self.assertIn("no batch to resume", done.stderr)

    def test_whatever_attempts_are_made_from_is_compared(self):
        (self.tmp / "prompt.md").write_text(steps())
        (self.tmp / "data.txt").write_text("one")
        # An image as far as a look at it tells, with a layer that is none.
        with tarfile.open(self.tmp / "image.tar", "w") as image:
            for name, content in (
                    ("manifest.json", [{"Config": "config.json", "Layers": ["layer.tar"]}]),
                    ("config.json", {"os": "linux", "rootfs": {"diff_ids": ["sha256:" + 64 * "0"]}}),
                    ("layer.tar", "no layer")):
                content = json.dumps(content).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                image.addfile(entry, io.BytesIO(content))
        (self.tmp / "agent.toml").write_text((HERE / "agents" / "caller.toml").read_text() +
                                             '[options.note]\nenv = { NOTE = "{value}" }\n')
        folder = self.folder(t=f"""instruction_file = '{self.tmp}/prompt.md'
[[files]]
path = "a/data.txt"
source = "{self.tmp}/data.txt"
""", u=f"""instruction = "x"
[sandbox]
image = "{self.tmp}/image.tar"
""")
        command = self.arguments(folder, self.script(SCRIPT), self.tmp / "agent.toml",
                                 "--retries", "0")

        def again(*flags):
            done = subprocess.run([*command, *flags], capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=60, check=False)
            return done.returncode, done.stderr

        self.assertEqual(again("--repeat", "2")[0], 1)
        kinds = {line["task"]: line["result"]["error_kind"] for line in map(
            json.loads, (self.out / "results.jsonl").read_text().splitlines())}
        self.assertEqual(kinds, {"t": None, "u": "task"})
        for file, what in (("prompt.md", "the instruction of task t has changed"),
                           ("data.txt", '"a/data.txt" of task t has changed'),
                           ("image.tar", "the image of task u has changed"),
                           ("tasks/t/task.toml", "the file of task t has changed"),
                           ("script.toml", "the script has changed"),
                           ("agent.toml", "the agent's spec has changed")):
            path = self.tmp / file
            was, times = path.read_text(), path.stat()
            path.write_text(was + "\n")
            code, told = again("--repeat", "2", "--resume")
            self.assertEqual(code, 2, told)
            self.assertIn(f"another batch than {self.out}: {what}", told)
            path.write_text(was)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        for flags, what in ((["--approvals", "bypass"], 'its approvals was "", not "bypass"'),
                            (["--option", "note=1"], 'its options was [], not ["note=1"]'),
                            (["--delivery", "incremental"], "its delivery was null"),
                            (["--max-version-lag", "2"], "its max_version_lag was null, not 2"),
                            (["--trainer-text"], "its trainer_text was false, not true"),
                            (["--max-tokens-cap", "9"], "its max_tokens_cap was null, not 9")):
            code, told = again("--repeat", "2", "--resume", *flags)
            self.assertEqual(code, 2, told)
            self.assertIn(what, told)
        (folder / "v.task.toml").write_text("instruction = 'x'\n")
        self.assertIn("the file of task v.task is new", again("--repeat", "2", "--resume")[1])
        (folder / "v.task.toml").unlink()
        code, told = again("--repeat", "2", "--resume", "--concurrency", "1", "--keep")
        self.assertEqual(code, 1, told)
        self.assertIn("resuming: 4 of 4 had ended", told)

    def test_bad_folders(self):
        empty = self.tmp / "empty"
        empty.mkdir()
        self.assertIn("holds no tasks", self.run_batch(empty).stderr)
        clash = self.folder(a="id = 'x'\ninstruction = 'x'\n", b="id = 'x'\ninstruction = 'x'\n")
        self.assertIn('both called "x"', self.run_batch(clash).stderr)

    def test_sigkill_of_the_engine_and_resume(self):
        """However often it is killed: each rollout ends once, nothing is invented or lost."""
        total = 12
        task = self.task(f"id = 't'\ninstruction = '''{steps({'sleep': 0.1})}'''\nverify = ['true']\n")
        flags = ["--repeat", str(total), "--concurrency", "3"]
        generator = random.Random(2026)
        out = self.tmp / "batch"
        for _ in range(count(2, 60)):
            seen, more = [], []
            for attempt in range(20):
                process = subprocess.Popen(self.command(task, *flags, *more, out=out),
                                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE)
                self.addCleanup(end, process)
                try:
                    # Ever longer, for machines on which a start takes long; at last to the end.
                    process.wait(generator.uniform(0.02, 0.9) * (1 + attempt / 4)
                                 if attempt < 19 else 120)
                except subprocess.TimeoutExpired:
                    process.kill()
                process.communicate()
                lines = self.read_lines()
                # Only whole lines are added, and none that were there change.
                self.assertEqual(lines[: len(seen)], seen)
                for line in lines[len(seen):]:
                    result = line["result"]
                    self.assertEqual((result["reward"], result["error_kind"]), (1.0, None), line)
                    trace = self.out / "traces" / (result["rollout_id"] + ".jsonl")
                    self.assertEqual(json.loads(trace.read_text().splitlines()[-1])["type"], "closed")
                seen = lines
                if process.returncode == 0:
                    break
                if (out / "batch.json").exists():
                    more = ["--resume"]
                time.sleep(0.05)
            self.assertEqual(process.returncode, 0)
            ends = collections.Counter(line["name"] for line in seen)
            self.assertEqual(ends, {f"t@{i}": 1 for i in range(1, total + 1)})
            subprocess.run(["rm", "-r", out], check=True)


if __name__ == "__main__":
    unittest.main()
