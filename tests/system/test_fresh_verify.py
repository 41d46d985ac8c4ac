"""Work that is judged in a sandbox in which the agent never was: what gets there, what does not, and
what the result says of it (docs/tasks.md, "Where verify runs")."""

import json
import os
import shutil
import subprocess
import unittest

from harness import SLUICE, Rollout, SystemTest, count

CALL = {"post": json.dumps({"model": "policy", "messages": [{"role": "user", "content": "x"}]})}
ANSWERS = """
[[rules]]
text = "hello"
"""
# In no instruction, so that whoever looks for it finds only what it was hidden in.
HIDDEN = "hidden-4711"
PATTERN = "hidden[-]4711"


class FreshVerify(SystemTest):
    def task_of(self, commands, verify, keys="", tables="", where="fresh"):
        """A task whose agent calls once and runs the commands. `verify`: the keys of [verify] by name;
        `keys`: of the task itself."""
        steps = [CALL, *({"run": command} for command in commands)]
        verify = {"where": where, **verify} if where else verify
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in verify.items())
        return self.task(f"instruction = {json.dumps(json.dumps(steps))}\n{keys}\n[verify]\n{lines}\n{tables}\n")

    def judge(self, commands, verify, *flags, **more):
        rollout = self.run_rollout(self.task_of(commands, verify, **more), self.script(ANSWERS), "caller", *flags)
        if rollout.result:
            self.result = rollout.result
            self.told = f"{rollout.result['verify_results']}\n{rollout.result['agent_log_tail']}"
        return rollout

    def batch(self, task, *flags):
        """The results of many attempts at once."""
        done = self.sluice(*self.arguments(task, self.script(ANSWERS), "caller", *flags, "--concurrency", "4")[1:])
        lines = (self.out / "results.jsonl").read_text().splitlines()
        self.assertEqual(len(lines), int(flags[-1]), done.stderr)
        return [json.loads(line)["result"] for line in lines]

    def check(self, reward, where="fresh"):
        self.assertIsNone(self.result["error_kind"], self.result["error"])
        self.assertEqual(self.result["reward"], reward, self.told)
        self.assertEqual(self.result["verify_where"], where)

    # --- What gets there ---

    def test_the_work_arrives_with_what_is_missing_from_it(self):
        self.judge(
            ["echo changed > kept; rm gone; rm -r full", "mkdir -p new/deep; echo made > new/deep/file",
             "printf '#!/bin/sh\\necho ran\\n' > run; chmod 750 run; ln -s run link; touch -d @1000000000 kept",
             "ln -s /etc/passwd out; ln kept twin; chmod 4755 run; truncate -s 3G sparse; mkdir -m 700 empty"],
            {"commands": ["test \"$(cat kept new/deep/file)\" = \"$(printf 'changed\\nmade')\"",
                          "test ! -e gone && test ! -e full",
                          "test \"$(./link)\" = ran && test \"$(stat -c %a run empty | xargs)\" = '755 700'",
                          "test \"$(stat -c '%Y %h' kept)\" = '1000000000 1'",
                          "test \"$(readlink out)\" = /etc/passwd && cmp kept twin",
                          "test \"$(stat -c %s sparse)\" = 3221225472 && test $(du -k sparse | cut -f1) -lt 100",
                          "test \"$(id -u):$(stat -c %u run)\" = 1001:1001"]},
            keys='setup = ["mkdir full; touch full/file kept gone"]')
        self.check(1.0)
        self.assertEqual(self.result["files"]["kept"], "changed\n")

    def test_names_and_contents_of_any_bytes_arrive(self):
        make = ("python3 -c 'import os; [open(name, \"wb\").write(name) for name in "
                "(b\"a\\nb\", b\"\\xff\\xfe\", b\" \", b\"-rf\", b\"\\xc3\\xa9\", b\"x\" * 255)]'")
        look = ("python3 -c 'import os; names = os.listdir(b\".\"); assert len(names) == 6, names; "
                "assert all(open(name, \"rb\").read() == name for name in names)'")
        self.judge([make], {"commands": [look]})
        self.check(1.0)

    def test_only_what_is_named_is_taken_and_not_what_is_excluded(self):
        self.judge(
            ["echo mine | tee src/a src/conftest.py tests/t other ~/out/result > /dev/null",
             "rm -r tests; ln -s src tests"],
            {"paths": ["src", "../out"], "exclude": ["conftest.py"],
             "commands": ["test $(cat src/a) = mine", "test $(cat tests/t) = prepared",
                          "test $(cat /home/user/out/result) = mine", "test ! -e src/conftest.py",
                          "test ! -e other"]},
            keys='setup = ["mkdir src tests ../out; echo prepared > tests/t; chmod 777 ../out tests"]')
        self.check(1.0)

    def test_a_workdir_that_is_gone_or_closed_is_judged(self):
        for what, honest in {"cd ..; rm -rf workdir": 0.5, "cd ..; rm -rf workdir; ln -s / workdir": 0.5,
                             "cd ..; rm -rf workdir; touch workdir": 0.5, "echo x > answer; chmod 0 . ..": 1.0,
                             "echo x > answer; chmod 0 answer; mkdir -m 0 shut": 1.0}.items():
            with self.subTest(what):
                self.judge([what], {"commands": ["true", "test -e answer"]})
                self.check(honest)

    # --- What does not ---

    def test_hidden_files_are_nowhere_near_the_agent(self):
        files = f"""
            [[verify.files]]
            path = "tests/test_hidden.py"
            content = "{HIDDEN}"
            [[verify.files]]
            path = "/opt/judge/run"
            content = "#!/bin/sh\\necho {HIDDEN}"
            executable = true
            """
        look = f"cat /proc/*/environ /proc/*/cmdline 2>/dev/null | grep -c {PATTERN}; " \
               f"grep -rls {PATTERN} /home /tmp /opt /srv /var /run /etc /dev/shm /root /.image; ls -A /opt"
        for flags in (["--repeat", "2"], ["--group", "2"]):
            with self.subTest(flags):
                task = self.task_of([look], {"commands": [f"grep -q {HIDDEN} tests/test_hidden.py",
                                                          f"/opt/judge/run | grep -q {HIDDEN}"]},
                                    tables=files, where=None)
                for self.result in self.batch(task, *flags):
                    self.told = self.result["agent_log_tail"]
                    self.check(1.0)
                    self.assertEqual(json.loads(self.told.splitlines()[1])["stdout"], "0\n")

    def test_what_the_agent_left_elsewhere_is_left_there(self):
        self.judge(
            ["for f in .bashrc .profile .bash_profile .gitconfig .pythonrc; do echo 'exit 0' > ~/$f; done",
             "mkdir -p ~/.local/bin ~/.config/git; printf '#!/bin/sh\\nexit 0\\n' > ~/.local/bin/python3; "
             "chmod 755 ~/.local/bin/python3; echo > /tmp/left; echo > /var/tmp/left; echo > /dev/shm/left",
             "ipcmk -M 100 -p 666 2>/dev/null; mkdir -p ~/logs/verifier; echo 1 > ~/logs/verifier/reward.txt",
             "setsid sh -c 'while :; do echo 1 > ~/logs/verifier/reward.txt; echo forged > answer; done' "
             ">/dev/null 2>&1 & echo honest > answer; sleep 0.2"],
            {"commands": ["ls -A /home/user | grep -v -e workdir -e logs | grep . && exit 1; true",
                          "test -z \"$(ls -A /tmp /var/tmp /dev/shm | grep left)\"",
                          "test $(ipcs -m | grep -c 0x) = 0", "ps -e -o args | grep -q '[r]eward.txt' && exit 1; true",
                          "test -e answer"]})
        self.check(1.0)

    def test_tests_that_the_agent_changed_are_the_tasks_again(self):
        honest = """
            [[verify.files]]
            path = "tests/check.sh"
            content = "test $(cat answer) = 42"
            """
        for trick in ["mkdir -p tests; echo exit 0 > tests/check.sh",
                      "mkdir mine; echo exit 0 > mine/check.sh; ln -s mine tests",
                      "mkdir -p tests; ln -s /bin/true tests/check.sh", "echo > tests", "mkdir -p tests/check.sh/x",
                      "mkdir -p tests; mkfifo tests/check.sh", "mkdir -p tests; : > tests/check.sh; chmod 0 tests"]:
            for answer, reward in [("41", 0.0), ("42", 1.0)]:
                with self.subTest(trick, answer=answer):
                    self.judge([f"echo {answer} > answer; {trick}"], {"commands": ["sh tests/check.sh"]},
                               tables=honest, where=None)
                    self.check(reward)

    # --- Verdicts that cannot be given ---

    def unusable(self, reward, why):
        self.check(reward)
        self.assertIn(why, self.result["reward_error"])
        self.assertEqual({row["exit_code"] for row in self.result["verify_results"]}, {None})

    def test_a_work_that_is_too_large_is_the_agents_doing(self):
        self.judge(["seq 200000 | xargs touch"], {"commands": ["true"], "reward_min": -1})
        self.unusable(-1.0, "over 200000 files and directories")
        deep = "python3 -c 'import os\nfor i in range(2200): os.mkdir(\"d\"); os.chdir(\"d\")'"
        self.judge([deep], {"commands": ["true"]})
        self.unusable(0.0, "too deep")
        if count(0, 1):
            self.judge(["head -c 1100M /dev/zero > large"], {"commands": ["true"]})
            self.unusable(0.0, "over 1073741824 bytes")

    def test_a_work_for_which_there_is_no_room_is_the_agents_doing(self):
        self.judge(["rm ~/mine/large; head -c 40M /dev/zero > large"], {"commands": ["true"]},
                   keys='setup = ["mkdir ../mine; head -c 40M /dev/zero > ../mine/large; chown -R 1000 ../mine"]',
                   tables="[limits]\ndisk_mb = 64\n")
        self.unusable(0.0, "No space left")

    def test_start_commands_run_beside_the_verifier(self):
        self.judge(["pgrep -f 'sleep 987' && touch seen"],
                   {"start": ["(setsid sleep 654 > /dev/null 2>&1 &) ; id -u > /srv/who"],
                    "commands": ["pgrep -f '[s]leep 654'", "test $(cat /srv/who) = 0", "test -e seen",
                                 "pgrep -f '[s]leep 987' && exit 1; true"]},
                   keys='setup = ["setsid sleep 987 > /dev/null 2>&1 &"]')
        self.check(1.0)
        self.assertEqual([row["exit_code"] for row in self.result["verify_start_results"]], [0])

    def test_a_start_command_that_fails_is_a_row_and_no_verdict(self):
        self.judge(["touch broken"], {"start": ["echo why >&2; test ! -e /home/user/workdir/broken"], "commands": ["true"],
                                      "reward_min": -2})
        self.unusable(-2.0, "start command failed: echo why >&2; test ! -e /home/user/workdir/broken: exit code 1")
        self.assertEqual(self.result["verify_start_results"][0]["stderr"], "why\n")

    # --- Where ---

    def test_the_result_says_where(self):
        self.judge(["true"], {"commands": ["true"]}, where=None)
        self.check(1.0, "same")
        self.assertNotIn("move", [row["phase"] for row in self.result["phases"]])
        self.judge(["true"], {"commands": ["true"]}, where=None,
                   tables='[[verify.files]]\npath = "x"\ncontent = "x"')
        self.check(1.0, "fresh")
        self.assertIn("move", [row["phase"] for row in self.result["phases"]])

    def test_what_cannot_be_meant_is_refused_when_the_task_is_read(self):
        for where, verify, why in [("same", {"start": ["x"]}, '"same"'), (None, {"paths": ["x"]}, '"fresh"'),
                                   ("fresh", {"paths": ["/"]}, "whole sandbox")]:
            rollout = self.judge([], {"commands": ["true"], **verify}, where=where)
            self.assertEqual(rollout.code, 2)
            self.assertIn(why, rollout.stderr)

    def test_groups_and_repeats_are_judged_each_by_itself(self):
        task = self.task_of(["cp number answer; echo x >> /tmp/mine"],
                            {"commands": ["test ! -e /tmp/mine", "cmp answer /srv/number"]},
                            keys='setup = ["head -c 8 /dev/urandom | base64 | tee /srv/number > number"]')
        for flags in (["--group", "8"], ["--repeat", "8"]):
            with self.subTest(flags):
                self.assertEqual([result["reward"] for result in self.batch(task, *flags)], [1.0] * 8)

    def test_kept_files_are_the_agents(self):
        rollout = self.judge(["echo mine > made; echo mine > ~/beside"], {"commands": ["test -e made", "touch judged"]},
                             "--keep", where=None,
                             tables=f'[[verify.files]]\npath = "hidden"\ncontent = "{HIDDEN}"')
        self.check(1.0)
        kept = rollout.directory / "files"
        self.assertEqual((kept / "beside").read_text(), "mine\n")
        self.assertEqual(sorted(path.name for path in (kept / "workdir").iterdir()), ["made"])
        self.assertIn("hidden", self.result["files"])

    def test_one_user_is_judged_afresh_and_told_what_was_left(self):
        if os.geteuid() != 0:
            self.skipTest("we are one: the other tests show it")
        user = ["setpriv", "--reuid=61999", "--regid=61999", "--clear-groups"]
        if subprocess.run([*user, "test", "-x", SLUICE], check=False).returncode != 0:
            self.skipTest(f"an ordinary user does not get at {SLUICE}")
        task = self.task_of(
            ["echo 41 > answer; mkdir -m 0 shut; echo > closed; chmod 0 closed; echo > /usr-mine; echo > /tmp/x",
             "mv /lib64 /lib64-away; mkdir /lib64; chmod 0 . .."],
            {"commands": ["test $(cat answer) = 42", "test ! -e /usr-mine",
                          "stat -c %a shut closed | xargs | grep -q '0 0'"]},
            where=None)
        out = self.tmp / "out"
        out.mkdir()
        agent = self.arguments(task, self.script(ANSWERS), "caller", out=out)
        for place in (self.tmp, out, task):
            shutil.chown(place, 61999, 61999)
        self.tmp.chmod(0o755)
        done = subprocess.run([*user, *agent], capture_output=True, check=False, timeout=120, cwd="/",
                              env={"PATH": os.environ["PATH"], "HOME": str(self.tmp)})
        self.result = Rollout(done, out).result
        self.assertIsNotNone(self.result, done.stderr)
        self.told = f"{self.result['verify_results']}\n{self.result['agent_log_tail']}"
        if self.result["guest_isolated"]:
            self.skipTest("this user has subordinate ids")
        self.assertIsNone(self.result["error_kind"], self.result["error"])
        self.assertEqual(self.result["verify_where"], "fresh")
        self.assertAlmostEqual(self.result["reward"], 2 / 3, msg=self.told)
        self.assertTrue([text for text in self.result["warnings"] if "files outside the workdir changed" in text],
                        self.result["warnings"])


if __name__ == "__main__":
    unittest.main()
