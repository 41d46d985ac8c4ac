"""What documents say of the source: the files and functions of ARCHITECTURE.md's walks, and the versions
that docs/dialects.md says are tested.
"""

import json
import re
import unittest

from harness import SOURCE, SystemTest


class Architecture(unittest.TestCase):
    text = (SOURCE / "ARCHITECTURE.md").read_text()

    def test_it_stays_short(self):
        self.assertLessEqual(len(self.text.splitlines()), 300)

    def test_every_file_it_names_exists(self):
        names = re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.(?:h|cc|md|toml))`", self.text)
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertTrue((SOURCE / "sluice" / name).exists() or (SOURCE / name).exists(), name)

    def test_every_function_of_the_walks_exists(self):
        walks = self.text[self.text.index("## One call") : self.text.index("## Out of scope")]
        source = "\n".join(path.read_text() for path in (SOURCE / "sluice").rglob("*.[hc]*"))
        names = re.findall(r"`(?:[A-Za-z]+::)*([A-Za-z_]+)(?:\(\))?`", walks)
        self.assertGreater(len(names), 25)
        for name in names:
            self.assertRegex(source, rf"\b{name}\b")


class AgentSpecs(SystemTest):
    text = (SOURCE / "docs" / "agent-specs.md").read_text()

    def specs(self):
        return re.findall(r"```toml\n(.*?)```", self.text, re.DOTALL)

    def test_every_spec_it_shows_is_one(self):
        self.assertEqual(len(self.specs()), 2)
        for number, text in enumerate(self.specs()):
            done = self.sluice("agents", "show", self.file(f"{number}.toml", text))
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_script_that_is_an_agent_does_its_work(self):
        spec = self.file("my-script.toml", self.specs()[1])
        task = self.task("""instruction = "say it"\nverify = ["test \\"$(cat answer.txt)\\" = it"]\n""")
        rollout = self.run_rollout(
            task, self.script('[[rules]]\ntext = "it"\n'), spec)
        self.assertEqual(rollout.result["reward"], 1.0, rollout.stdout)


class Dialects(unittest.TestCase):
    text = (SOURCE / "docs" / "dialects.md").read_text()

    def test_the_versions_it_names_are_those_that_are_tested(self):
        pins = re.findall(r"^([a-z-]+)==([\d.]+)$",
                          (SOURCE / "tests" / "requirements.txt").read_text(), re.MULTILINE)
        node = json.loads((SOURCE / "tests" / "llm" / "node" / "package.json").read_text())
        pins += node["dependencies"].items()
        sdks = [pin for pin in pins
                if pin[0].split("/")[-1] in ("openai", "anthropic", "google-genai", "sdk", "genai")
                and not pin[0].startswith("@modelcontextprotocol")]
        self.assertEqual(len(sdks), 6)
        for name, version in sdks:
            self.assertIn(f"`{name}` {version}", " ".join(self.text.split()))


if __name__ == "__main__":
    unittest.main()
