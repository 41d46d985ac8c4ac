"""Whole rollouts of a real OpenCode in a real local sandbox, and of small agents that do on purpose
what OpenCode does only when something is wrong."""

import http.server
import json
import os
import re
import signal
import subprocess
import threading
import time
import unittest

from harness import SOURCE, SystemTest, descendants, end, links, listening_sockets, read

HELLO = SOURCE / "examples" / "hello"

ONE_ANSWER = """
[[rules]]
text = "hello"
usage = { prompt_tokens = 1, completion_tokens = 1 }
"""


def chat(text, **more):
    return json.dumps({"model": "policy", "messages": [{"role": "user", "content": text}], **more})


TELLER = """
name = "teller"
version = "1"
description = "says what it is told of its model"
needs = ["sh"]
[install]
commands = ["true"]
program = "sh"
[run]
command = ["{program}", "-c", "echo told {context_window} {max_output}"]
prompt = "stdin"
timeout_s = 20
[dialects.chat]
path = "/v1"
"""

SECRETS = {name: f"secret-of-{name}-'$(leak)'" for name in (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "SLUICE_TRAINER_KEY", "SLUICE_OPERATOR_KEY")}


class Watched(threading.Thread):
    """Looks at the processes below this one: their arguments, and the environments of coding agents."""

    def __init__(self):
        super().__init__(daemon=True)
        self.arguments, self.environments_of_agents = set(), set()
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            for pid in descendants(os.getpid()):
                words = read(f"/proc/{pid}/cmdline")
                self.arguments.add(words)
                if words.startswith(b"/opt/opencode/"):
                    self.environments_of_agents.add(read(f"/proc/{pid}/environ"))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


class OpenCode(SystemTest):
    """One rollout of examples/hello, looked at from all sides."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("test_reward_is_one")
        case.setUp()
        cls.addClassCleanup(case.doCleanups)
        with Watched() as cls.watched:
            cls.rollout = case.run_rollout(HELLO / "task.toml", f"script:{HELLO}/script.toml",
                                           "opencode", env=SECRETS)

    def test_reward_is_one(self):
        result = self.rollout.result
        self.assertEqual(result["error"], None, self.rollout.stderr)
        self.assertEqual(result["reward"], 1.0)
        self.assertEqual(self.rollout.code, 0)
        self.assertEqual(result["agent_exit_code"], 0)
        self.assertTrue(result["agent_ok"])
        self.assertEqual(result["approvals"], "agent_default")
        self.assertIn("primes.sh", result["files"])
        self.assertEqual([row["exit_code"] for row in result["verify_results"]], [0, 0])

    def test_result_and_trace_are_printed(self):
        self.assertIn("reward   1.00", self.rollout.stdout)
        self.assertIn(str(self.rollout.directory / "result.json"), self.rollout.stdout)
        self.assertIn(self.rollout.result["trace"], self.rollout.stdout)

    def test_finding_17_finding_78_every_call_was_answered_at_the_gate(self):
        calls = self.rollout.trace.calls()
        self.assertEqual(len(calls), 3)
        self.assertEqual({call["outcome"] for call in calls}, {"delivered"})
        self.assertEqual(self.rollout.result["llm"],
                         {"calls": 3, "turns": 3, "resends": 0, "refused": 0, "rejected": 0, "failed": 0,
                          "rewrites": 0})

    def test_history_is_append_only_and_holds_each_answer(self):
        calls = self.rollout.trace.calls()
        for earlier, later in zip(calls, calls[1:]):
            before = json.loads(earlier["body"])["messages"]
            after = json.loads(later["body"])["messages"]
            self.assertEqual(after[: len(before)], before)
            echoed = after[len(before)]
            answer = earlier["answer"]["choices"][0]
            self.assertEqual(echoed["role"], "assistant")
            self.assertEqual(echoed["content"], answer["text"])
            self.assertEqual([call["id"] for call in echoed["tool_calls"]],
                             [call["id"] for call in answer["tool_calls"]])
            self.assertTrue(earlier["confirmed"])

    def test_bodies_are_the_bytes_that_were_sent(self):
        # OpenCode writes compact JSON, model first: re-serialising would show.
        for call in self.rollout.trace.calls():
            self.assertTrue(call["body"].startswith(b'{"model":"policy","max_tokens":'))
            json.loads(call["body"])

    def test_the_prompt_arrives_exactly(self):
        first = json.loads(self.rollout.trace.calls()[0]["body"])
        wanted = re.search(r'instruction = """\n(.*?)"""', (HELLO / "task.toml").read_text(),
                           re.DOTALL).group(1)
        self.assertEqual(first["messages"][-1], {"role": "user", "content": wanted})

    def test_phases_are_timed_and_reported(self):
        phases = [row["phase"] for row in self.rollout.result["phases"]]
        self.assertEqual(phases, ["create", "install", "upload", "setup", "configure", "start",
                                  "agent", "stop", "collect", "verify", "files", "close"])
        traced = [event["phase"] for event in self.rollout.trace.events("phase")]
        self.assertEqual(traced, phases)

    def test_events_are_understood(self):
        tools = [event["tool"] for event in self.rollout.trace.events("agent")
                 if event["kind"] == "tool"]
        self.assertEqual(tools, ["write", "bash"])

    def test_finding_43_nothing_secret_is_in_arguments_logs_or_trace(self):
        secrets = [secret.encode() for secret in SECRETS.values()]
        files = [file for file in self.rollout.directory.rglob("*") if file.is_file()]
        self.assertIn(self.rollout.result["trace"], map(str, files))
        for file in files:
            self.assertEqual(file.stat().st_mode & 0o077, 0, file)
            for secret in secrets:
                self.assertNotIn(secret, file.read_bytes(), file)
        # The agent's own key is a placeholder that opens nothing; even that is in no argument.
        self.assertTrue(any(b"opencode" in words for words in self.watched.arguments))
        for words in self.watched.arguments:
            for secret in [*secrets, b"sluice-no-key-needed"]:
                self.assertNotIn(secret, words)
        self.assertTrue(any(b"HOME=" in environment
                            for environment in self.watched.environments_of_agents))
        for environment in self.watched.environments_of_agents:
            for secret in secrets:
                self.assertNotIn(secret, environment)


class Endings(SystemTest):
    """Each way a rollout can end has its own name."""

    def caller(self, steps, keys="", tables="", script=ONE_ANSWER, **more):
        """A rollout of the agent `caller`; keys of the task's root, then its tables."""
        task = self.task(f"{keys}\ninstruction = '''{json.dumps(steps)}'''\n{tables}\n")
        return self.run_rollout(task, self.script(script), "caller", **more)

    def test_failing_verification_is_zero(self):
        rollout = self.caller([{"post": chat("hi")}], 'verify = ["exit 4", "echo out; echo err >&2; exit 5"]')
        self.assertEqual(rollout.result["reward"], 0.0)
        self.assertIsNone(rollout.result["error_kind"])
        rows = rollout.result["verify_results"]
        self.assertEqual([row["exit_code"] for row in rows], [4, 5])
        self.assertEqual((rows[1]["stdout"], rows[1]["stderr"]), ("out\n", "err\n"))

    def test_no_verification_is_null(self):
        rollout = self.caller([{"post": chat("hi")}])
        self.assertIsNone(rollout.result["reward"])
        self.assertIsNone(rollout.result["error_kind"])
        self.assertIn("reward   null", rollout.stdout)
        self.assertEqual(rollout.code, 0)

    def test_an_agent_is_told_of_its_models_limits_under_every_policy(self):
        teller = self.file("teller.toml", TELLER)
        policies = {self.script(ONE_ANSWER): [], "passthrough:http://127.0.0.1:9/v1": [],
                    "trainer": ["--trainer-listen", "127.0.0.1:0"]}
        both = "[agent]\ncontext_window = 32768\nmax_output = 2048\n"
        for policy, flags in policies.items():
            for text, more, told in (("", [], "131072 8192"), (both, [], "32768 2048"),
                                     (both, ["--max-output", "4096"], "32768 4096"),
                                     ("", ["--context-window", "4096"], "4096 4096")):
                rollout = self.run_rollout(self.task(f"instruction = 'x'\n{text}"), policy, teller,
                                           *flags, *more)
                self.assertEqual((rollout.directory / "agent.stdout").read_text(), f"told {told}\n",
                                 rollout.stderr)
                self.assertEqual(rollout.result["warnings"], [])
        rollout = self.run_rollout(self.task("instruction = 'x'\n"), "passthrough:http://127.0.0.1:9/v1",
                                   teller, "--max-tokens-cap", "1000", "--max-output", "3000")
        self.assertEqual((rollout.directory / "agent.stdout").read_text(), "told 131072 1000\n")
        # One that cannot be told.
        rollout = self.run_rollout(self.task("instruction = '[]'\n"), self.script(ONE_ANSWER), "caller",
                                   "--context-window", "4096")
        self.assertIn("context_window has no effect: caller's spec does not use {context_window}",
                      rollout.result["warnings"])
        rollout = self.run_rollout(self.task("instruction = 'x'\n"), self.script(ONE_ANSWER), teller,
                                   "--max-output", "200000")
        self.assertEqual(rollout.code, 2)
        self.assertIn("max_output, 200000, is more than the context window, 131072", rollout.stderr)

    def test_an_agent_that_never_calls(self):
        rollout = self.caller([], 'verify = ["true"]')
        self.assertEqual(rollout.result["error_kind"], "gate_never_called")
        self.assertIsNone(rollout.result["reward"])
        self.assertEqual(rollout.result["agent_exit_code"], 0)
        self.assertEqual(rollout.code, 1)

    def test_finding_27_a_setup_command_that_fails(self):
        rollout = self.caller([{"post": chat("hi")}],
                              'setup = ["echo fine", "echo half; echo broken >&2; sleep 0.1; exit 3", "true"]')
        result = rollout.result
        self.assertEqual(result["error_kind"], "task")
        self.assertEqual([row["exit_code"] for row in result["setup_results"]], [0, 3])
        row = result["setup_results"][1]
        self.assertEqual((row["stdout"], row["stderr"]), ("half\n", "broken\n"))
        self.assertGreaterEqual(row["duration_s"], 0.1)
        self.assertIsNone(result["agent_exit_code"])
        self.assertNotIn("agent", [phase["phase"] for phase in result["phases"]])
        self.assertIsNone(result["reward"])

    def test_an_endless_agent(self):
        task = self.task("""
instruction = "never end"
verify = ["test -f started", "! ps -e -o args 2>/dev/null | grep -v grep | grep -q 'sleep 1000'"]
[limits]
agent_timeout_s = 1.5
""")
        sleeper = self.run_rollout(task, self.script(ONE_ANSWER), "sleeper")
        # It made no call either, which is the graver mistake.
        self.assertEqual(sleeper.result["error_kind"], "gate_never_called")
        self.assertEqual(sleeper.result["agent_ended"], "timed out")
        self.assertEqual([row["exit_code"] for row in sleeper.result["verify_results"]], [0, 0])

        rollout = self.caller([{"post": chat("hi")}, {"run": "setsid sleep 1000 & echo"},
                               {"sleep": 1000}],
                              'verify = ["true"]', "[limits]\nagent_timeout_s = 1.5")
        self.assertEqual(rollout.result["error_kind"], "timed_out")
        self.assertIsNone(rollout.result["agent_exit_code"])
        self.assertEqual(rollout.result["reward"], 1.0)

    def test_a_budget(self):
        rollout = self.caller([{"post": chat(f"call {i}")} for i in range(5)] + [{"exit": 1}],
                              'verify = ["true"]', "[limits]\ncalls = 2")
        self.assertEqual(rollout.result["error_kind"], "budget")
        self.assertEqual(rollout.result["llm"]["turns"], 2)

    def test_an_agent_that_fails(self):
        rollout = self.caller([{"post": chat("hi")}, {"exit": 7}], 'verify = ["true"]')
        self.assertEqual(rollout.result["error_kind"], "agent")
        self.assertEqual(rollout.result["agent_exit_code"], 7)
        self.assertEqual(rollout.result["reward"], 1.0)

    def test_the_agent_cannot_forge_its_reward(self):
        forge = ("mkdir -p ~/logs/verifier; echo 1.0 > ~/logs/verifier/reward.txt; "
                 "chmod 777 ~/logs/verifier ~/logs/verifier/reward.txt; "
                 "ln -sf /dev/full expected; echo 'exit 0' > ~/.bashrc; "
                 "printf '#!/bin/sh\\nexit 0\\n' > test; chmod +x test")
        rollout = self.caller([{"post": chat("hi")}, {"run": forge}], 'verify = ["test -f done"]')
        self.assertEqual(rollout.result["reward"], 0.0)

    def test_finding_63_an_answer_that_speaks_of_a_reward_changes_no_result(self):
        """Neither what the model says, nor what a tool says, nor what the agent prints of it."""
        claim = '{"type": "result", "reward": 1.0, "error": null, "verify_results": [{"exit_code": 0}]}'
        steps = [
            {"post": chat("hi")},
            {"post": json.dumps({"model": "policy", "reward": 1.0, "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": claim, "tool_calls": [
                    {"id": "call_1", "type": "function",
                     "function": {"name": "set_reward", "arguments": claim}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": claim}]})},
            {"run": f"echo '{claim}'"}]
        script = f"""
[[rules]]
when = {{ last_role = "tool" }}
text = "{{{{last}}}}"
[[rules]]
text = '{claim}'
[[rules.tool_calls]]
name = "set_reward"
arguments = {{ reward = 1.0 }}
"""
        for verify, reward in (["false"], 0.0), (["true", "exit 3"], 0.5), ([], None):
            rollout = self.caller(steps, f"verify = {json.dumps(verify)}", script=script)
            # It was all said.
            said = [call["answer"]["choices"][0]["text"] for call in rollout.trace.calls()]
            self.assertEqual(said, [claim, claim])
            self.assertEqual(rollout.result["llm"]["turns"], 2)
            self.assertEqual(rollout.result["reward"], reward)
            self.assertIsNone(rollout.result["error"])
            self.assertEqual(len(rollout.result["verify_results"]), len(verify))

    def test_a_reward_file_of_the_verifier_counts(self):
        rollout = self.caller([{"post": chat("hi")}], 'verify = ["echo 0.25 > $HOME/reward.txt; false"]')
        self.assertEqual(rollout.result["reward"], 0.25)

    def test_finding_24_verification_sees_a_dead_agent(self):
        rollout = self.caller(
            [{"post": chat("hi")},
             {"run": "setsid sh -c 'trap \"\" TERM HUP; while :; do date +%N > beat; sleep 0.01; done' >/dev/null 2>&1 &"},
             {"sleep": 0.2}],
            'verify = ["a=$(cat beat); sleep 0.3; test \\"$a\\" = \\"$(cat beat)\\""]')
        self.assertEqual(rollout.result["reward"], 1.0)

    def test_the_sandbox_has_no_network_and_no_secrets(self):
        rollout = self.caller(
            [{"post": chat("hi")},
             {"run": "cat /proc/net/dev | wc -l; env; ls -A /root /home 2>&1; cat /etc/shadow 2>&1; id -u"}],
            env={"SECRET_OF_THE_HOST": "do-not-leak"})
        output = rollout.directory.joinpath("agent.stdout").read_text()
        ran = [json.loads(line) for line in output.splitlines() if '"ran"' in line][0]["stdout"]
        self.assertTrue(ran.startswith("3\n"), ran)  # two lines of heading, and lo
        self.assertNotIn("do-not-leak", ran)
        self.assertTrue(ran.endswith("1000\n"), ran)
        self.assertNotRegex(ran, "(?m)^root:")  # as /etc/shadow begins

    def test_finding_43_an_upstream_key_never_enters_the_sandbox(self):
        # Nobody listens there: the call fails, the key must still be nowhere.
        text = f"instruction = '''{json.dumps([{'post': chat('hi')}, {'run': 'env; cat /proc/*/environ /proc/*/cmdline'}])}'''\n"
        rollout = self.run_rollout(self.task(text), "passthrough:http://127.0.0.1:9/v1", "caller",
                                   env={"OPENAI_API_KEY": "sk-test'$(leak)-0123456789"})
        self.assertEqual(rollout.result["mode"], "black_box")
        for file in rollout.directory.rglob("*"):
            if file.is_file():
                self.assertNotIn(b"$(leak)", file.read_bytes(), file)


    def test_finding_45_nothing_of_a_rollout_listens_on_the_hosts_network(self):
        steps = json.dumps([{"post": chat("hi")}, {"sleep": 20}])
        engine = subprocess.Popen(self.arguments(self.task(f"instruction = '''{steps}'''\n"),
                                                 self.script(ONE_ANSWER), "caller"),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(end, engine)
        deadline = time.monotonic() + 30
        while not any(b'"ended"' in file.read_bytes() for file in self.out.glob("*.jsonl")):
            self.assertLess(time.monotonic(), deadline, "the agent made no call")
            time.sleep(0.05)
        pids = {engine.pid} | descendants(engine.pid)
        self.assertGreater(len(pids), 2)  # the helper and a guest at least
        sockets = set()
        for pid in pids:
            sockets |= {link for link in links(f"/proc/{pid}/fd") if link.startswith("socket:")}
        self.assertTrue(sockets)
        self.assertEqual(sockets & listening_sockets(), set())
        engine.send_signal(signal.SIGINT)
        self.assertEqual(engine.wait(timeout=20), 130)


class Passthrough(SystemTest):
    def test_finding_33_what_is_asked_of_every_call_reaches_the_upstream(self):
        seen = []

        class Upstream(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = b'{"choices":[{"message":{}}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = chat("hi", max_tokens=5000, x=1)
        rollout = self.run_rollout(
            self.task("instruction = " + json.dumps(json.dumps([{"post": asked}])) + "\n"),
            f"passthrough:http://127.0.0.1:{server.server_port}/v1", "caller",
            "--disable-thinking", "--max-tokens-cap", "100", "--top-logprobs", "3")
        self.assertEqual(rollout.result["llm"]["turns"], 1, rollout.stderr)
        self.assertEqual(seen, [{**json.loads(asked), "max_tokens": 100, "logprobs": True,
                                 "top_logprobs": 3,
                                 "chat_template_kwargs": {"enable_thinking": False}}])
        self.assertEqual([call["body"].decode() for call in rollout.trace.calls()], [asked])

    def test_what_only_an_upstream_can_be_asked_is_refused_elsewhere(self):
        for flags in ["--disable-thinking"], ["--max-tokens-cap", "9"], ["--top-logprobs", "3"]:
            rollout = self.run_rollout(self.task("instruction = 'x'\n"), self.script(ONE_ANSWER),
                                       "caller", *flags)
            self.assertEqual(rollout.code, 2)
            self.assertIn("they need --policy passthrough:URL", rollout.stderr)


class Bodies(SystemTest):
    def test_request_bodies_are_kept_byte_for_byte(self):
        odd = '{ "messages" :[{"content":"caf\\u00e9 \\ud83d\\ude00 \\u0000", "role":"user"}],\r\n\t"model":"m", "x": 1.0e+2}\n'
        text = f"instruction = '''{json.dumps([{'post': odd}])}'''\n"
        rollout = self.run_rollout(self.task(text), self.script(ONE_ANSWER), "caller")
        self.assertEqual([call["body"].decode() for call in rollout.trace.calls()], [odd])

    def test_bad_bodies_get_a_clear_error_and_are_no_calls(self):
        steps = [{"post": "this is not JSON"}, {"post": "{}"}, {"post": "[1]"},
                 {"post": '{"model": "m", "messages": "x"}'},
                 {"post": '{"model":"m","messages":[{"role":"user","content":"' + "x" * 1024 + '"}], "pad": "',
                  "times": 40 * 1024},
                 {"post": chat("still alive")}]
        text = f"instruction = '''{json.dumps(steps)}'''\n"
        rollout = self.run_rollout(self.task(text), self.script(ONE_ANSWER), "caller")
        answers = [json.loads(line) for line in
                   rollout.directory.joinpath("agent.stdout").read_text().splitlines()]
        self.assertEqual([answer["status"] for answer in answers], [400, 400, 400, 400, 413, 200])
        for answer in answers[:5]:
            self.assertTrue(json.loads(answer["body"])["error"]["message"])
        self.assertEqual(len(rollout.trace.calls()), 1)


class BadInput(SystemTest):
    """Wrong input is refused before anything runs, with what to do about it."""

    def refused(self, task, policy, agent, *wanted, code=2, flags=()):
        rollout = self.last = self.run_rollout(task, policy, agent, *flags)
        self.assertEqual(rollout.code, code, rollout.stderr)
        self.assertIsNone(rollout.result)
        for text in wanted:
            self.assertIn(text, rollout.stderr)

    def test_task_files(self):
        script = self.script(ONE_ANSWER)
        self.refused(self.tmp / "none.toml", script, "caller", "none.toml", "No such file")
        self.refused(self.task("instruction = "), script, "caller", "task.toml:1")
        self.refused(self.task('instruction = "x"\nverfy = []'), script, "caller",
                     "task.toml:2: verfy: unknown key", "verify")

    def test_agents(self):
        task = self.task('instruction = "x"')
        self.refused(task, self.script(ONE_ANSWER), "no-such-agent", "no-such-agent", "opencode")
        broken = self.file("broken.toml", 'name = "broken"\nversion = 3\n')
        self.refused(task, self.script(ONE_ANSWER), broken, "broken.toml:2: version: must be a string")

    def test_policies(self):
        task = self.task('instruction = "x"')
        self.refused(task, "magic", "caller", "--policy magic", "script:FILE")
        self.refused(task, self.script("[[rules]]\n"), "caller", "script.toml:1", "text")
        self.refused(task, "script:/none.toml", "caller", "/none.toml")
        self.refused(task, "passthrough:ftp://x", "caller", "ftp://x")

    def test_flags_that_do_not_fit(self):
        task, script = self.task('instruction = "x"'), self.script(ONE_ANSWER)
        self.refused(task, script, "caller", "task.toml: ", 'has no option "foo"; it has none',
                     flags=["--option", "foo=1"])
        self.refused(task, script, "caller", "does not speak the dialect messages",
                     flags=["--dialect", "messages"])
        self.refused(task, script, "caller", "only a trainer", flags=["--accept", "sampled"])
        done = self.sluice("run", task, "--policy", script)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--agent is required", done.stderr)
        self.assertRegex(self.sluice("run", "--help").stdout, r"--agent TEXT REQUIRED")
        self.refused(task, "passthrough:api.example.com/v1", "caller", "--policy passthrough: ")
        self.assertNotIn("note:", self.last.stderr)

    def test_subcommands_that_are_none_are_named(self):
        for words, told in ((["rnu"], 'sluice has no subcommand "rnu"; it has: run, serve, gate, '),
                            (["gate", "server"], 'gate has no subcommand "server"; it has: serve'),
                            (["agents", "ls", "x"], 'agents has no subcommand "ls"; it has: list, ')):
            done = self.sluice(*words)
            self.assertEqual(done.returncode, 2)
            self.assertIn(told, done.stderr)
        self.assertIn("A subcommand is required", self.sluice("gate").stderr)

    def test_first_steps_are_told_once(self):
        self.assertIn("First steps", self.sluice("--help").stdout)
        for words in (["doctor"], ["gate"], ["agents", "list"], ["sandboxes", "shell"]):
            self.assertNotIn("First steps", self.sluice(*words, "--help").stdout, words)

    def test_a_command_of_many_lines_is_one_in_the_summary(self):
        steps = json.dumps([{"post": chat("hi")}])
        task = self.task("""verify = ["true", "true\\necho second"]\n"""
                         f"instruction = '''{steps}'''\n")
        rollout = self.run_rollout(task, self.script(ONE_ANSWER), "caller")
        self.assertRegex(rollout.stdout, r"(?m)^verify   ok    true \.\.\.  \(exit code 0\)$")
        self.assertNotIn("second", rollout.stdout)

    def test_an_output_directory_that_is_in_use(self):
        directory = self.tmp / "full"
        directory.mkdir()
        (directory / "file").write_text("precious")
        done = self.sluice("run", self.task('instruction = "x"'), "--policy",
                           self.script(ONE_ANSWER), "--out", directory, "--agent",
                           os.path.join(os.path.dirname(__file__), "agents", "caller.toml"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("not empty", done.stderr)
        self.assertEqual((directory / "file").read_text(), "precious")


if __name__ == "__main__":
    unittest.main()
