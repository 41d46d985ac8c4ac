"""The real OpenCode and Pi over connections that break, before the headers, in the wait and in the middle
of an answer: the work is done all the same, every call was generated once, and what the agent says later
of its history is what was recorded.

Needs npm, or the bundles in the cache: `sluice agents install NAME`.
"""

import json
import unittest

from harness import HERE, SLOW, SOURCE, SystemTest

DIALECTS = ["chat", "responses", "messages", "gemini"]
CONVERSATION = {"chat": "messages", "responses": "input", "messages": "messages", "gemini": "contents"}

# Long enough that a cut in its middle leaves most of it with the gate.
LONG = "It goes on and on. " * 4000

# The first attempt of each of three turns, each with a tool call, and the last one's answer, which has
# none.
CUTS = ["headers", "", "wait", "", "answer", "", "answer", ""]
SCRIPT = f"""
[[rules]]
when = {{ turn = 1 }}
delay_s = 0.5
text = "I will write."
[[rules.tool_calls]]
name = "bash"
arguments = {{ command = "echo one >> turns", description = "d" }}
[[rules]]
when = {{ turn = 2 }}
delay_s = 0.5
[[rules.tool_calls]]
name = "bash"
arguments = {{ command = "echo two >> turns", description = "d" }}
[[rules.tool_calls]]
name = "bash"
arguments = {{ command = "echo three >> turns", description = "d" }}
[[rules]]
when = {{ turn = 3 }}
delay_s = 0.5
text = "{LONG}"
[[rules.tool_calls]]
name = "bash"
arguments = {{ command = "echo four >> turns", description = "d" }}
[[rules]]
delay_s = 0.5
text = "{LONG}Done."
"""
# Each command ran once.
TASK = """
instruction = "Write four lines into the file turns."
verify = ["test \\"$(sort turns | tr '\\\\n' ' ')\\" = 'four one three two '"]
"""


class Behind:
    """Mixed into a class for each agent."""

    agent = ""
    config = ""  # where it is told the gate's address

    def broken_agent(self):
        """Its own spec, run behind breaking.py."""
        spec = (SOURCE / "agents" / f"{self.agent}.toml").read_text()
        for old, new in (('needs = ["sh"]', 'needs = ["sh", "python3"]'),
                         ('"{program}", ', '"python3", "{home}/breaking.py", "{gate}", '
                          f'"{self.config}", "{",".join(CUTS)}", "{{program}}", ')):
            self.assertEqual(spec.count(old), 1)
            spec = spec.replace(old, new)
        program = (HERE / "breaking.py").read_text()
        return self.file(f"{self.agent}.toml", f"""{spec}
[[files]]
path = "{{home}}/breaking.py"
content = '''
{program}'''
""")

    def test_a_broken_connection_changes_nothing_that_was_said(self):
        for dialect in DIALECTS if SLOW else DIALECTS[:1]:
            with self.subTest(dialect=dialect):
                rollout = self.run_rollout(self.task(TASK), self.script(SCRIPT), self.broken_agent(),
                                           "--dialect", dialect, timeout=300)
                self.assertIsNone(rollout.result["error"], rollout.stderr)
                calls = rollout.trace.calls()
                self.assertEqual(rollout.result["reward"], 1.0, rollout.stdout)
                self.assertTrue(rollout.result["agent_ok"])
                self.check_books(rollout, calls)
                self.check_history(dialect, calls)

    def check_books(self, rollout, calls):
        """One call, one answer and one outcome for each turn, however often it was asked for."""
        turns = 4
        self.assertEqual(rollout.result["llm"], {"calls": turns, "turns": turns,
                                                 "resends": sum(map(bool, CUTS)), "refused": 0,
                                                 "rejected": 0, "failed": 0, "rewrites": 0})
        for kind in "arrived", "answered", "ended":
            ids = [line["call"] for line in rollout.trace.of(kind)]
            self.assertEqual(sorted(ids), sorted(call["call"] for call in calls), kind)
        self.assertEqual([call["outcome"] for call in calls], ["delivered"] * turns)
        self.assertEqual([call["confirmed"] for call in calls], [True] * (turns - 1) + [False])

    def check_history(self, dialect, calls):
        """Each request is the one before it, the answer to that as it is recorded, and what came of it."""
        conversations = [json.loads(call["body"])[CONVERSATION[dialect]] for call in calls]
        for call, before, after in zip(calls, conversations, conversations[1:]):
            if dialect != "messages":  # there the marks for caching move on
                self.assertEqual(after[: len(before)], before)
            said = json.dumps(after[len(before):])
            answer = call["answer"]["choices"][0]
            if "text" in answer:
                self.assertEqual(said.count(json.dumps(answer["text"])), 1)
            for tool in answer["tool_calls"]:  # neither agent says ids in gemini
                self.assertIn(json.dumps(tool["name" if dialect == "gemini" else "id"]), said)


class OpenCode(Behind, SystemTest):
    agent = "opencode"
    config = "{home}/.config/opencode/opencode.json"


class Pi(Behind, SystemTest):
    agent = "pi"
    config = "{home}/.pi/agent/models.json"


if __name__ == "__main__":
    unittest.main()
