"""What the whole-system tests share: running the command, reading results and traces, and looking
for what a rollout must not leave behind.

The command under test is bin/sluice of $SLUICE_BUILD_DIR (default: build/release). Only the standard
library is used.
"""

import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest
import uuid

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD_DIR") or SOURCE / "build" / "release")
SLUICE = str(BUILD / "bin" / "sluice")
SLOW = os.environ.get("SLUICE_SLOW") == "1"


def count(quick, slow):
    """How often to do a thing: `./dev test` or `./dev test --slow`."""
    return slow if SLOW else quick


class Trace:
    """A rollout's trace (docs/trace.md), read independently of the C++ reader."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        bodies = self.path.with_suffix(".bodies")
        self._bodies = bodies.read_bytes() if bodies.exists() else b""

    def of(self, kind):
        return [line for line in self.lines if line["type"] == kind]

    def events(self, kind):
        return [line["detail"] for line in self.of("event") if line["kind"] == kind]

    def calls(self):
        """Each call as {"body": bytes, "answer": ..., "outcome": ..., "confirmed": bool, ...}."""
        calls = {}
        for line in self.lines:
            if line["type"] == "arrived":
                where = line["body"]
                body = b"".join(
                    self._bodies[offset : offset + size] for offset, size in where["parts"])
                calls[line["call"]] = dict(line, body=body, answer=None, outcome=None,
                                           confirmed=False)
            elif line["type"] == "answered":
                answer = calls[line["call"]]["answer"] = dict(line["answer"])
                if (after := answer.pop("prompt_after", None)) is not None:
                    before = calls[after]["answer"]
                    (choice,) = before["choices"]
                    answer["prompt_ids"] = (before["prompt_ids"] + choice.get("ids", []) +
                                            answer["prompt_ids"])
            elif line["type"] == "ended":
                calls[line["call"]]["outcome"] = line["outcome"]
            elif line["type"] == "confirmed":
                calls[line["call"]]["confirmed"] = True
        return sorted(calls.values(), key=lambda call: call["ordinal"])


class Rollout:
    """What one `sluice run` left: its exit code, output, result and trace."""

    def __init__(self, done, directory):
        self.code = done.returncode
        self.stdout = done.stdout.decode(errors="replace")
        self.stderr = done.stderr.decode(errors="replace")
        self.directory = pathlib.Path(directory)
        file = self.directory / "result.json"
        self.result = json.loads(file.read_text()) if file.exists() else None

    @property
    def trace(self):
        return Trace(self.result["trace"])


class SystemTest(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="system-test-")
        self.addCleanup(holder.cleanup)
        self.tmp = pathlib.Path(holder.name)

    def file(self, name, text):
        path = self.tmp / name
        path.write_text(text)
        return path

    def task(self, text, name="task.toml"):
        return self.file(name, text)

    def script(self, text, name="script.toml"):
        return "script:" + str(self.file(name, text))

    def arguments(self, task, policy, agent, *flags, out=None):
        self.out = pathlib.Path(out or self.tmp / f"out-{uuid.uuid4().hex[:8]}")
        if not str(agent).endswith(".toml") and (HERE / "agents" / f"{agent}.toml").exists():
            agent = HERE / "agents" / f"{agent}.toml"
        return [SLUICE, "run", str(task), "--agent", str(agent), "--policy", policy,
                "--out", str(self.out), *flags]

    def run_rollout(self, task, policy, agent, *flags, timeout=600, env=None):
        done = subprocess.run(self.arguments(task, policy, agent, *flags), capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=timeout, check=False,
                              env={**os.environ, **(env or {})})
        rollout = Rollout(done, self.out)
        if rollout.result is None and rollout.code == 0:
            self.fail(f"no result: {rollout.stderr}")
        return rollout

    def sluice(self, *arguments, timeout=300, **more):
        return subprocess.run([SLUICE, *map(str, arguments)], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout, check=False, **more)


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def processes_with(mark):
    """The pids of all processes whose command line or environment holds `mark`."""
    mark = mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        if mark in read(f"/proc/{entry}/cmdline") or mark in read(f"/proc/{entry}/environ"):
            found.append(int(entry))
    return found


def descendants(pid):
    """The pids of all processes below `pid`."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = read(f"/proc/{entry}/stat").rpartition(b")")[2].split()
            if fields:
                children.setdefault(int(fields[1]), set()).add(int(entry))
    found, todo = set(), [pid]
    while todo:
        new = children.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def links(directory):
    """What the symbolic links in `directory` say; nothing for what has gone."""
    found = set()
    try:
        for entry in os.listdir(directory):
            found.add(os.readlink(os.path.join(directory, entry)))
    except OSError:
        pass
    return found


class Process(subprocess.Popen):
    """Its pid is remembered: what an engine leaves bears it."""

    started = set()

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.started.add(self.pid)


subprocess.Popen = Process  # subprocess.run() starts one as well


def listening_sockets():
    """All that listen or wait for datagrams in this network namespace, as /proc/PID/fd names them."""
    listening = {"tcp": b"0A", "tcp6": b"0A", "udp": b"07", "udp6": b"07"}
    found = set()
    for table, state in listening.items():
        for line in read(f"/proc/self/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                found.add(f"socket:[{fields[9].decode()}]")
    return found


def parent_of(pid):
    """None if it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def helper_of(engine):
    """The pid of an engine's sandbox helper; None if it is not there (yet, or any more)."""
    for pid in descendants(engine):
        if parent_of(pid) == engine and read(f"/proc/{pid}/cmdline").startswith(b"sluice-sandboxes"):
            return pid
    return None


def adopt_orphans():
    """Makes this process the parent of what processes that it started leave behind, so that
    running_below_us() finds it, and only it, whatever else runs on this machine."""
    PR_SET_CHILD_SUBREAPER = 36
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def running_below_us():
    """{(pid, name)} of everything below this process that is not dead yet."""
    found = set()
    for pid in descendants(os.getpid()):
        # pid (name) state ...: the name may hold anything.
        head, _, rest = read(f"/proc/{pid}/stat").rpartition(b") ")
        if rest[:1] not in (b"", b"Z"):
            found.add((pid, head.partition(b"(")[2].decode(errors="replace")))
    return found


def cgroups(ours):
    """The directories in every cgroup hierarchy that an engine among `ours` made, or one that we
    started and that is gone. Their names are sluice-NAMESPACE-PID-START of the process that did; what
    others on this machine start and kill is theirs, and so is what another pid namespace makes."""
    found = set()
    here = str(os.stat("/proc/self/ns/pid").st_ino)
    for top, names, _ in os.walk("/sys/fs/cgroup"):  # what goes meanwhile is passed over
        for name in [name for name in names if "sluice" in name]:
            names.remove(name)
            engine = re.match(r"sluice-(\d+)-(\d+)-", name)
            if engine and engine[1] != here:
                continue
            if not engine or int(engine[2]) in ours | Process.started:
                found.add(f"{top}/{name}")
    return found


def mounts():
    return set(pathlib.Path("/proc/self/mountinfo").read_text().splitlines())


class Leftovers:
    """What was there before, so that what is there later and was not is a leftover."""

    def __init__(self):
        adopt_orphans()
        self.before = self.look()

    @staticmethod
    def look():
        ours = running_below_us()
        # What tests make, here or in another run beside this one, has "test" in its name.
        tmp = {f"/tmp/{name}" for name in os.listdir("/tmp")
               if "sluice" in name and "test" not in name}
        return {"processes": ours, "cgroups": cgroups({pid for pid, _ in ours}), "mounts": mounts(),
                "temporary files": tmp}

    def find(self):
        now = self.look()
        return {kind: sorted(map(str, now[kind] - self.before[kind]))
                for kind in now if now[kind] - self.before[kind]}

    def wait_until_none(self, seconds):
        """What is still left after that long; {} if nothing."""
        end = time.monotonic() + seconds
        while True:
            left = self.find()
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.1)


def end(process):
    """Ends a process that a test started, whatever state it is in."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
