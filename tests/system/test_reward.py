"""A reward that nobody can bend: what agents do to their grade, and what it is all the same. As the
engine of root, and as an ordinary user's, whose sandboxes have one uid."""

import json
import os
import shutil
import subprocess
import unittest

from harness import SLUICE, SOURCE, SLOW, SystemTest, count
from tricks import TRICKS, table

SCRIPT = '[[rules]]\ntext = "hello"\n'
ANSWERED = ["test -f answer"]
# As verify scripts of others write it.
FILE = "/home/user/logs/verifier/reward.txt"
BY_FILE = [f"test -f answer && echo 0.5 > {FILE}"]
JUDGED = ["sh solution.sh"]


def text(value):
    return json.dumps(value)  # JSON's strings are TOML's


def task(does, verify=(), setup=(), files=None, limits="", **more):
    """A task's TOML; `more` are keys of [verify]."""
    lines = [f"instruction = {text(does or 'true')}", f"setup = {text(list(setup))}"]
    for path, content in (files or {}).items():
        lines += ["[[files]]", f"path = {text(path)}", f"content = {text(content)}"]
    lines += ["[verify]", f"commands = {text(list(verify))}"]
    lines += [f"{key} = {text(value)}" for key, value in more.items()]
    return "\n".join([*lines, limits]) + "\n"


def solution(line):
    """An agent whose program is run by the judge, with the judge's rights."""
    return f"cat > solution.sh <<'END'\n{line}\nEND"


def writes(content, **more):
    return task("true", [f"printf %s {shell(content)} > $HOME/reward.txt"], **more)


def shell(content):
    return "'" + content.replace("'", "'\\''") + "'"


DEEP = "python3 -c 'import os\nfor _ in range(2200): os.mkdir(\"d\"); os.chdir(\"d\")'"
SERVICE = ["python3 -m http.server 8123 >/dev/null 2>&1 & "
           "for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/8123) 2>/dev/null && exit; "
           "sleep 0.1; done; exit 1"]
NOTHING_LEFT = ("for d in /tmp /var/tmp /dev/shm /run/lock; do test ! -e $d/cache || exit 1; done; "
                "! tail -q -n +2 /proc/sysvipc/* | grep -q .")

# Each kind: its task, its reward, and what reward_error says, if anything.
KINDS = {
    # Places that verify needs: closed, removed, replaced.
    "workdir-0": (task("touch answer; chmod 0 .", ANSWERED), 1, None),
    "home-700": (task("touch answer; chmod 700 ~", ANSWERED), 1, None),
    "home-0": (task("touch answer; chmod 0 . ~", BY_FILE), 0.5, None),
    "workdir-removed": (task("cd /; rm -rf ~/workdir", ANSWERED), 0, None),
    "workdir-a-file": (task("cd ~; rm -rf workdir; echo > workdir", ANSWERED), 0, None),
    "workdir-a-link": (task("cd ~; rm -rf workdir; ln -s /etc workdir", ["test -f passwd"]), 0, None),
    "logs-a-file": (task("touch answer; rm -rf ~/logs; echo > ~/logs", BY_FILE), 0.5, None),
    "logs-a-link": (task("touch answer; rm -rf ~/logs; ln -s /etc ~/logs", BY_FILE), 0.5, None),
    "verifier-a-file": (task("touch answer; mkdir -p ~/logs; echo > ~/logs/verifier", BY_FILE), 0.5, None),
    "verifier-a-link": (task("touch answer; mkdir -p ~/logs; ln -s / ~/logs/verifier", BY_FILE), 0.5, None),
    "deep": (task(f"touch answer; {DEEP}", ANSWERED), 1, None),
    "disk-full": (task("cat /dev/zero > fill 2>/dev/null",
                       [f"echo -1 > {FILE}", "true"], reward_min=-1,
                       limits="[limits]\ndisk_mb = 16"), -1, None),
    # What the judged program makes of the reward file.
    "a-directory": (task(solution('mkdir "$HOME/reward.txt"; exit 1'), JUDGED), 0, "a directory"),
    "a-link": (task(solution('ln -s /etc/hostname "$HOME/reward.txt"'), JUDGED), 0, "a symbolic link"),
    "a-fifo": (task(solution('mkfifo "$HOME/reward.txt"'), JUDGED), 0, "a named pipe"),
    "mode-000": (task(solution('echo 1 > "$HOME/reward.txt"; chmod 0 "$HOME/reward.txt"'), JUDGED), 0,
                 "Permission denied"),
    "large": (task(solution('head -c 5000 /dev/zero | tr "\\0" 1 > "$HOME/reward.txt"'), JUDGED), 0,
              "larger than 4096 bytes"),
    "home-closed": (task(solution('echo 1 > "$HOME/reward.txt"; chmod 0 "$HOME/"'), JUDGED), 0,
                    "Permission denied"),
    "the-judge-killed": (task(solution('echo 1 > "$HOME/reward.txt"; kill -9 $PPID; sleep 9'),
                              ["sh solution.sh; echo 0 > $HOME/reward.txt"]), 0, "killed by signal 9"),
    # What it holds.
    "empty": (writes("", reward_min=-1), -1, "is empty"),
    "nan": (writes("nan"), 0, "no finite number"),
    "1e400": (writes("1e400"), 0, "no finite number"),
    "json": (writes('{"reward": 1}'), 0, "no finite number"),
    "bom": (writes("\ufeff1"), 0, "no finite number"),
    "plus": (writes("+0.25"), 0, "no finite number"),
    "zero-in-lines": (writes("\n0\n"), 0, None),
    "spaces": (writes(" 0.25\r\n"), 0.25, None),
    "negative": (writes("-0.5", reward_min=-2), -0.5, None),
    "missing": (task("true", ["true"], reward="file", reward_min=-1), -1, "no reward.txt"),
    "ignored": (task("true", ["echo 1 > $HOME/reward.txt; exit 1", "true"], reward="commands"), 0.5, None),
    "too-slow": (task("true", ["true", "sleep 60"], limits="[limits]\nverify_timeout_s = 0.3"), 0, "timed out"),
    # What else verify was betrayed by.
    "git-in-setup": (task("true", ["git status --porcelain | grep -qx 'A  a'"],
                          setup=["git init -q .", "touch a && git add a"]), 1, None),
    "left-for-everybody": (task("for d in /tmp /var/tmp /dev/shm /run/lock; do mkdir $d/cache; done; "
                                "ipcmk -M 4096 >/dev/null", [NOTHING_LEFT]), 1, None),
    "hard-link": (task("ln given ~/mine", ['test "$(stat -c %u given)" = "$(id -u)" && echo > given'],
                       files={"given": "x"}), 1, None),
    "service": (task("true", ["(exec 3<>/dev/tcp/127.0.0.1/8123)"], setup=SERVICE), 1, None),
}
# In a fresh sandbox nothing runs that set-up started, and what no path can name does not get there.
WITH_FRESH = {"service": (0, None), "deep": (0, "too deep")}


class Rewards(SystemTest):
    def folder(self, tasks):
        folder = self.tmp / "tasks"
        for name, toml in tasks.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "task.toml").write_text(toml)
        return folder

    def batch(self, tasks, repeat, user=(), **more):
        arguments = self.arguments(self.folder(tasks), self.script(SCRIPT), "hand", "--repeat",
                                   str(repeat), "--concurrency", "4")
        done = subprocess.run([*user, *arguments], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=1400, check=False, **more)
        lines = [json.loads(line) for line in
                 (self.out / "results.jsonl").read_text().split("\n")[:-1]]
        self.assertEqual(len(lines), repeat * len(tasks), done.stderr)
        for line in lines:
            self.assertEqual(line["failed_attempts"], [], line["name"])  # each was run once
            self.assertIsNotNone(line["result"]["reward"], line)
        return lines

    def as_ordinary_user(self):
        if os.geteuid() != 0:
            self.skipTest("we are one: the other tests show it")
        user = ["setpriv", "--reuid=61999", "--regid=61999", "--clear-groups"]
        if subprocess.run([*user, "test", "-x", SLUICE], check=False).returncode != 0:
            self.skipTest(f"an ordinary user does not get at {SLUICE}")
        self.tmp.chmod(0o755)
        shutil.chown(self.tmp, 61999, 61999)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.tmp)}
        return {"user": user, "env": environment, "cwd": "/"}

    def check(self, kinds, lines, where=None):
        unusable = 0
        for line in lines:
            result = line["result"]
            told = result.get("reward_error")
            unusable += told is not None
            reward, error = kinds[line["task"]][-2:]
            if result["verify_where"] == "fresh":
                reward, error = WITH_FRESH.get(line["task"], (reward, error))
            about = (line["name"], told, result["error"], result["verify_results"])
            self.assertEqual(result["reward"], reward, about)
            self.assertIsNone(result["error_kind"], about)
            default = "same" if result["guest_isolated"] else "fresh"
            self.assertEqual(result["verify_where"], where or default)
            if error is None:
                self.assertIsNone(told, about)
            else:
                self.assertIn(error, told or "", about)
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual(summary["rewards_unusable"], unusable)

    def tasks(self, kinds):
        return {name: kind[0] for name, kind in kinds.items()}

    def test_each_kind_as_this_user(self):
        self.check(KINDS, self.batch(self.tasks(KINDS), 8))

    def test_each_kind_as_an_ordinary_user(self):
        more = self.as_ordinary_user()
        self.check(KINDS, self.batch(self.tasks(KINDS), count(2, 8), **more))

    def test_each_kind_in_a_fresh_sandbox(self):
        fresh = {name: toml.replace("[verify]\n", '[verify]\nwhere = "fresh"\n')
                 for name, toml in self.tasks(KINDS).items()}
        self.check(KINDS, self.batch(fresh, count(2, 8)), "fresh")

    @unittest.skipUnless(SLOW, "with --slow")
    def test_long_batches_end(self):
        half = "test $((RANDOM % 2)) = 0 && touch answer; "
        kinds = {"half-closed": task(half + "chmod 0 . ~", ANSWERED),
                 "half-gone": task(half + "test -f answer || { cd ~; rm -rf workdir; }", ANSWERED),
                 "half-judged": task(solution('test $((RANDOM % 2)) = 0 || mkdir "$HOME/reward.txt"; exit 1'),
                                     ["bash solution.sh; test -d $HOME/reward.txt || echo 1 > $HOME/reward.txt"])}
        for name, toml in kinds.items():
            self.tmp.joinpath("tasks").exists() and shutil.rmtree(self.tmp / "tasks")
            lines = self.batch({name: toml}, 300)
            rewards = [line["result"]["reward"] for line in lines]
            self.assertEqual(set(rewards), {0.0, 1.0})
            self.assertTrue(75 < rewards.count(1.0) < 225, rewards.count(1.0))

    def test_numbers_out_of_bounds_are_counted(self):
        lines = self.batch({"below": writes("-1"), "above": writes("7", reward_max=2)}, 1)
        told = {line["task"]: (line["result"]["reward"], line["result"]["reward_clamped"]) for line in lines}
        self.assertEqual(told, {"below": (0, "-1"), "above": (2, "7")})
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual((summary["rewards_clamped"], summary["rewards_unusable"]), (2, 0))

    def test_the_end_of_long_output_is_in_the_row_and_all_of_it_beside_the_result(self):
        says = "seq 1 200000; echo 'FAILED test_x - the reason'; exit 1"
        (line,) = self.batch({"tail": task("true", ["echo short", says])}, 1)
        short, row = line["result"]["verify_results"]
        self.assertTrue(row["stdout"].endswith("\n200000\nFAILED test_x - the reason\n"))
        self.assertTrue(row["truncated"])
        kept = self.out / "rollouts" / line["name"]
        whole = (kept / "verify-2.stdout").read_text()
        self.assertTrue(whole.startswith("1\n2\n3\n") and len(whole) > 1_200_000)
        self.assertFalse((kept / "verify-1.stdout").exists())
        self.assertEqual(short["stdout"], "short\n")

    def test_what_tricks_are_worth_stands_in_the_documentation(self):
        places = {"same": lambda _: {"where": "same"}, "fresh": lambda _: {"where": "fresh"},
                  "fresh` and `exclude": lambda trick: {"where": "fresh", "exclude": trick.exclude}}
        names = list(places)
        tasks = {f"trick-{i}-{at}": task(trick.does, trick.verify, trick.setup, trick.files, **places[name](trick))
                 for i, trick in enumerate(TRICKS) for at, name in enumerate(names)}
        self.assertGreaterEqual(len(TRICKS), 20)
        outcomes = {trick.name: dict.fromkeys(names) for trick in TRICKS}
        for line in self.batch(tasks, 1):
            result = line["result"]
            if not result["guest_isolated"]:
                self.skipTest("there is one uid here, and the table is about agents with their own")
            self.assertIsNone(result["error_kind"], result["error"])
            trick, place = (int(number) for number in line["task"].split("-")[1:])
            self.assertEqual(result["verify_where"], names[place].partition("`")[0])
            outcomes[TRICKS[trick].name][names[place]] = result["reward"] > 0
        wanted = table(outcomes)
        documented = (SOURCE / "docs" / "tasks.md").read_text()
        self.assertIn(wanted, documented, f"docs/tasks.md should have this table:\n{wanted}")


if __name__ == "__main__":
    unittest.main()
