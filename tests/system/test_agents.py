"""The built-in agents, unmodified, in real sandboxes: in every dialect, at the gate and as black
boxes, and what each is known to trip over.

Needs npm, or the bundles in the cache: `sluice agents install NAME`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import unittest

from harness import SLUICE, SOURCE, Rollout, SystemTest, count

sys.path.insert(0, str(SOURCE / "tests" / "llm"))

from bundles import bundle  # noqa: E402
from server import Server, answer  # noqa: E402

HELLO = SOURCE / "examples" / "hello"
SCRIPT = f"script:{HELLO}/script.toml"
INSTRUCTION = re.search(r'instruction = """\n(.*?)"""', (HELLO / "task.toml").read_text(),
                        re.DOTALL).group(1)
DIALECTS = ["chat", "responses", "messages", "gemini"]
VERSIONS = {"chat": "/v1", "responses": "/v1", "messages": "/v1", "gemini": "/v1beta"}

PROGRAM = tomllib.loads((HELLO / "script.toml").read_text())["rules"][0]["tool_calls"][0]["arguments"]
# The same in one command of a shell, for agents that have no tool `write`.
COMMAND = f"cat > primes.sh <<'END'\n{PROGRAM['content']}END\nsh primes.sh 5"

TALK = """
[[rules]]
text = "I have nothing to do."
"""


def user_texts(dialect, body):
    """The texts of a request's user messages."""
    if dialect == "gemini":
        return [part["text"] for part in body["contents"][0]["parts"]]
    texts = []
    for message in body["input" if dialect == "responses" else "messages"]:
        if message.get("role") == "user":
            content = message["content"]
            texts += [content] if isinstance(content, str) else [part.get("text") for part in content]
    return texts


class InEveryDialect:
    """Mixed into a class for each agent."""

    agent = ""
    dialects = DIALECTS
    flags = ()
    # How it is told to write the program and to run it: a tool and its arguments for each turn.
    turns = [("write", PROGRAM), ("bash", {"command": "sh primes.sh 5", "description": "d"})]
    shown_tools = None  # if it calls them otherwise
    base = "{base_url}"  # what its spec tells it to put its paths behind

    def hello(self, dialect, policy=None):
        return self.run_rollout(HELLO / "task.toml", policy or self.turns_script(), self.agent,
                                "--dialect", dialect, *self.flags)

    def turns_script(self):
        rules = [f"""
            [[rules]]
            when = {{ turn = {turn} }}
            text = "Now the next step."
            [[rules.tool_calls]]
            name = "{tool}"
            arguments_text = {json.dumps(json.dumps(arguments))}
        """ for turn, (tool, arguments) in enumerate(self.turns, 1)]
        return self.script("".join(rules) + '[[rules]]\ntext = "Done."\n')

    def check(self, rollout):
        result = rollout.result
        self.assertIsNone(result["error"], rollout.stderr)
        self.assertEqual(result["reward"], 1.0, rollout.stdout)
        self.assertTrue(result["agent_ok"])
        self.assertEqual(rollout.code, 0)

    def test_reward_is_one_at_the_gate(self):
        for dialect in self.dialects:
            with self.subTest(dialect=dialect):
                rollout = self.hello(dialect)
                self.check(rollout)
                calls = rollout.trace.calls()
                turns = len(self.turns) + 1
                self.assertEqual([call["dialect"] for call in calls], [dialect] * turns)
                self.assertEqual([call["outcome"] for call in calls], ["delivered"] * turns)
                # Each answer was found again in the request after it.
                self.assertEqual([call["confirmed"] for call in calls],
                                 [True] * (turns - 1) + [False])
                # Each goes on from the one before it, and nothing of that was rewritten.
                self.assertEqual([call.get("parent") for call in calls],
                                 [None] + [call["call"] for call in calls[:-1]])
                self.assertEqual(rollout.trace.events("rewritten"), [])
                self.assertEqual(rollout.result["llm"]["rewrites"], 0)
                self.assertIn(INSTRUCTION, user_texts(dialect, json.loads(calls[0]["body"])))
                tools = [event["tool"] for event in rollout.trace.events("agent")
                         if event["kind"] == "tool"]
                self.assertEqual(tools, self.shown_tools or [tool for tool, _ in self.turns])

    def test_finding_76_black_box_reward_is_one(self):
        """The same against a model endpoint elsewhere: nothing is parked, sizes and times are kept."""
        steps = [answer("Next.", (f"call_{turn}", tool, json.dumps(arguments)),
                        finish="tool_calls", keep_alives=turn)
                 for turn, (tool, arguments) in enumerate(self.turns)] + [answer("Done.")]
        with Server() as upstream:
            for dialect in self.dialects:
                with self.subTest(dialect=dialect):
                    upstream.script(*steps)
                    rollout = self.hello(dialect,
                                         f"passthrough:{upstream.url}{VERSIONS[dialect]}")
                    self.check(rollout)
                    self.assertEqual(rollout.result["mode"], "black_box")
                    relays = rollout.trace.events("relay")
                    self.assertEqual([relay["status"] for relay in relays], [200] * len(steps))
                    self.assertTrue(all(relay["answer_bytes"] > 0 for relay in relays))
                    self.assertEqual(rollout.result["llm"]["rewrites"], 0)
                    # What reached the endpoint is what the agent sent.
                    sent = [call["body"].decode() for call in rollout.trace.calls()]
                    self.assertEqual([call["body"] for call in upstream.calls()], sent)

    def changed_spec(self, old, new):
        text = (SOURCE / "agents" / f"{self.agent}.toml").read_text()
        self.assertIn(old, text)
        return self.file(f"{self.agent}.toml", text.replace(old, new))

    def test_a_slash_too_many_in_its_base_url_is_none(self):
        agent = self.changed_spec(self.base, self.base + "/")
        self.check(self.run_rollout(HELLO / "task.toml", self.turns_script(), agent, "--dialect",
                                    self.dialects[0], *self.flags))

    def test_what_ends_an_agent_ends_it_at_once(self):
        refusing = self.script('[[rules]]\nrefuse = "enough"\n')
        for dialect in self.dialects:
            with self.subTest(dialect=dialect):
                rollout = self.hello(dialect, refusing)
                self.assertEqual(rollout.result["llm"],
                                 {"calls": 1, "turns": 0, "resends": 0, "refused": 0, "rejected": 0, "failed": 0,
                                  "rewrites": 0})
                self.assertFalse(rollout.result["agent_ok"])
                self.assertEqual(rollout.result["reward"], 0.0)


    # How it runs a command: a tool and the argument that is the command.
    shell = ("bash", "command")

    def shell_rule(self, turn, *commands, text="Next.", more=""):
        """A rule of a script: calls of its shell, each of the id `x`. A command without its end is
        cut in the middle."""
        tool, name = self.shell
        calls = []
        for command in commands:
            arguments = json.dumps({"description": "d", name: command} if tool.lower() == "bash"
                                   else {name: command})
            if command.endswith("..."):
                arguments = arguments.removesuffix('..."}')
            calls.append(f"""
                [[rules.tool_calls]]
                id = "x"
                name = "{tool}"
                arguments_text = {json.dumps(arguments)}
            """)
        return f"[[rules]]\nwhen = {{ turn = {turn} }}\ntext = '{text}'\n{more}\n" + "".join(calls)

    def run_script(self, dialect, verify, *rules):
        task = self.task(f"instruction = 'go'\nverify = [{json.dumps(verify)}]\n")
        return self.run_rollout(task, self.script("".join(rules) + '[[rules]]\ntext = "Done."\n'),
                                self.agent, "--dialect", dialect, *self.flags)

    def test_calls_of_one_id_are_all_run(self):
        """Two of one id in an answer, and again in the next: to the agent each is another."""
        for dialect in self.dialects:
            with self.subTest(dialect=dialect):
                rollout = self.run_script(
                    dialect, "test \"$(sort ran | tr -d '\\n')\" = onethreetwo",
                    self.shell_rule(1, "echo one >> ran", "echo two >> ran"),
                    self.shell_rule(2, "echo three >> ran"))
                self.check(rollout)
                calls = rollout.trace.calls()
                self.assertEqual([call["confirmed"] for call in calls], [True, True, False])
                ids = [tool["id"] for call in calls
                       for tool in call["answer"]["choices"][0].get("tool_calls", [])]
                self.assertEqual(ids[0], "x")
                self.assertEqual(len(set(ids)), 3)
                renamed = rollout.trace.events("ids_renamed")
                self.assertEqual([event["ids"] for event in renamed], [{ids[1]: "x"}, {ids[2]: "x"}])

    def test_calls_that_are_promised_and_do_not_come_are_not_waited_for(self):
        for dialect in self.dialects:
            with self.subTest(dialect=dialect):
                rollout = self.run_script(
                    dialect, "true", '[[rules]]\ntext = "I will look."\nfinish = "tool_calls"\n')
                self.check(rollout)
                self.assertEqual(rollout.result["llm"]["calls"], 1)

    def test_a_call_that_was_cut_is_not_run(self):
        for dialect in self.dialects:
            with self.subTest(dialect=dialect):
                rollout = self.run_script(
                    dialect, "test ! -e ran",
                    self.shell_rule(1, "touch ran; echo ...", more="finish = 'length'"))
                self.assertEqual(rollout.result["reward"], 1.0, rollout.stdout)
                (choice,) = rollout.trace.calls()[0]["answer"]["choices"]
                self.assertNotIn("tool_calls", choice)
                self.assertIn("touch ran", choice["withheld"][0]["arguments"])

    # The option by which it is told not to think, and what of its requests says so, by dialect.
    not_to_think = ""
    thinking_in = {}

    def test_finding_33_its_own_option_switches_thinking_off(self):
        for dialect, seen in self.thinking_in.items():
            with self.subTest(dialect=dialect):
                rollout = self.run_rollout(HELLO / "task.toml", self.script(TALK), self.agent,
                                           "--dialect", dialect, "--option", self.not_to_think)
                for call in rollout.trace.calls():
                    self.assertTrue(seen(json.loads(call["body"])), call["body"])

    # What an agent might take for options, files, commands or something to quote; and white space,
    # which some of them trim.
    prompts = ["- first\n- second", "@notes.txt says it all", "--help", "-@x",
               "/help me: \"quote\" 'single' $HOME `x` \\n\n\nthe end", "naïve ☃\ttab"]

    def test_finding_74_the_prompt_arrives_exactly(self):
        dialect = self.dialects[0]
        for prompt in self.prompts[: count(3, len(self.prompts))]:
            with self.subTest(prompt=prompt):
                task = self.task(f"instruction = {json.dumps(prompt)}\n")
                rollout = self.run_rollout(task, self.script(TALK), self.agent)
                self.assertIsNone(rollout.result["error"], rollout.stderr)
                (call,) = rollout.trace.calls()
                self.assertIn(prompt, user_texts(dialect, json.loads(call["body"])))


class OpenCode(InEveryDialect, SystemTest):
    agent = "opencode"
    not_to_think = 'chat_template_kwargs={"enable_thinking": false}'
    thinking_in = {"chat": lambda body: body["chat_template_kwargs"] == {"enable_thinking": False}}

    def test_the_example_is_for_it(self):
        self.check(self.hello("chat", SCRIPT))


class ClaudeCode(InEveryDialect, SystemTest):
    agent = "claude_code"
    dialects = ["messages"]
    base = "{gate}"
    flags = ("--approvals", "bypass")
    turns = [("Bash", {"command": COMMAND, "description": "d"})]
    shell = ("Bash", "command")
    prompts = [prompt.replace("/help me", "Help me") for prompt in InEveryDialect.prompts]
    not_to_think = "disable_thinking=1"
    thinking_in = {"messages": lambda body: "thinking" not in body}

    def test_it_thinks_where_it_is_let(self):
        rollout = self.run_rollout(HELLO / "task.toml", self.script(TALK), self.agent, "--option",
                                   "disable_thinking=0")
        self.assertIn("thinking", json.loads(rollout.trace.calls()[0]["body"]))

    def test_a_prompt_that_is_a_command_to_it_is_no_silent_success(self):
        task = self.task('instruction = "/help me"\nverify = ["true"]\n')
        rollout = self.run_rollout(task, self.script(TALK), self.agent)
        self.assertEqual(rollout.result["error_kind"], "gate_never_called")
        self.assertIsNone(rollout.result["reward"])


class Codex(InEveryDialect, SystemTest):
    agent = "codex"
    dialects = ["responses"]
    flags = ("--approvals", "bypass")
    turns = [("exec_command", {"cmd": COMMAND})]
    shown_tools = ["command_execution"]
    shell = ("exec_command", "cmd")
    not_to_think = "reasoning_effort=none"
    thinking_in = {"responses": lambda body: body["reasoning"]["effort"] == "none"}

    def test_told_to_dial_for_websocket_it_goes_on_by_http_at_once(self):
        asked = 'wire_api = "responses"\n'
        agent = self.changed_spec(asked, asked + "supports_websockets = true\n")
        rollout = self.run_rollout(HELLO / "task.toml", self.turns_script(), agent, *self.flags)
        self.check(rollout)
        dials = [event for event in rollout.trace.events("refused") if "WebSocket" in json.dumps(event)]
        self.assertEqual(len(dials), 1, dials)
        self.assertEqual(rollout.result["llm"]["refused"], 1)


class Pi(InEveryDialect, SystemTest):
    agent = "pi"
    prompts = ["  space before and behind \n\n", *InEveryDialect.prompts]
    not_to_think = "thinking=off"
    thinking_in = {
        "chat": lambda body: body["chat_template_kwargs"]["enable_thinking"] is False,
        "responses": lambda body: body["reasoning"] == {"effort": "none"},
        "messages": lambda body: body["thinking"] == {"type": "disabled"},
        "gemini": lambda body: body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 0},
    }

    def test_the_example_is_for_it_too(self):
        self.check(self.hello("chat", SCRIPT))

    def test_success_is_read_from_events_for_it_always_exits_with_0(self):
        rollout = self.hello("chat", self.script('[[rules]]\nrefuse = "not today"\n'))
        self.assertEqual(rollout.result["agent_exit_code"], 0)
        self.assertFalse(rollout.result["agent_ok"])
        errors = [event["text"] for event in rollout.trace.events("agent")
                  if event["kind"] == "error"]
        self.assertTrue(errors and "not today" in errors[-1], errors)

    def test_the_version_is_the_specs_and_so_is_its_node(self):
        # Without a version npm takes the newest that suits the Node it runs on, which is another on
        # each host.
        spec, place = bundle("pi")
        packages = place / "node_modules"
        installed = json.loads((packages / "@earendil-works/pi-coding-agent/package.json").read_text())
        self.assertEqual(installed["version"], spec["version"])
        node = next(p for p in spec["bundle"]["npm"] if p.startswith("node@")).split("@")[1]
        told = subprocess.run([packages / "node/bin/node", "--version"], capture_output=True,
                              text=True, check=True).stdout.strip()
        self.assertEqual(told, "v" + node)
        # It runs with no other Node in sight.
        told = subprocess.run([place / "pi", "--version"], capture_output=True, text=True, check=True,
                              env={"PATH": "/usr/bin:/bin", "HOME": str(self.tmp)})
        self.assertIn(spec["version"], told.stdout + told.stderr)

    def test_no_session_is_saved(self):
        rollout = self.run_rollout(HELLO / "task.toml", self.script("""
            [[rules]]
            when = { turn = 1 }
            [[rules.tool_calls]]
            name = "bash"
            arguments = { command = "cd ~/.pi/agent && find . -type f" }
            [[rules]]
            text = "{{tool_result}}"
        """), "pi")
        found = json.loads(rollout.trace.calls()[1]["body"])["messages"][-1]["content"]
        self.assertIn("./models.json", found)
        self.assertNotIn("sessions", found)

    def test_finding_65_as_an_ordinary_user(self):
        if os.geteuid() != 0:
            self.skipTest("we are one: the other tests show it")
        user = ["setpriv", "--reuid=61999", "--regid=61999", "--clear-groups"]
        if subprocess.run([*user, "test", "-x", SLUICE], check=False).returncode != 0:
            self.skipTest(f"an ordinary user does not get at {SLUICE}")
        _, place = bundle("pi")
        bundles = self.tmp / "cache" / "bundles"
        bundles.mkdir(parents=True)
        subprocess.run(["cp", "-a", place, bundles], check=True)
        out = self.tmp / "out"
        for directory in (self.tmp, bundles, out):
            directory.mkdir(exist_ok=True)
            shutil.chown(directory, 61999, 61999)
        self.tmp.chmod(0o755)
        done = subprocess.run(
            [*user, SLUICE, "run", str(HELLO / "task.toml"), "--agent", "pi", "--policy", SCRIPT,
             "--out", str(out)], capture_output=True, check=False, timeout=120, cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self.tmp),
                 "SLUICE_CACHE_DIR": str(self.tmp / "cache")})
        self.check(Rollout(done, out))


if __name__ == "__main__":
    unittest.main()
