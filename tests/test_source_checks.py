"""tools/check finds what it is there to find: each case is a small tree with one thing wrong."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def run(tree, check, files):
    (tree / "tools").mkdir()
    shutil.copy(REPO / "tools" / "check", tree / "tools" / "check")
    shutil.copy(REPO / ".clang-format", tree / ".clang-format")
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    subprocess.run(["git", "init", "-q", tree], check=True)
    return subprocess.run([tree / "tools" / "check", check], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)


def test_finding_72_no_source_names_an_agent():
    agents = {path.stem for path in (REPO / "agents").glob("*.toml")}
    assert agents
    literal = re.compile(r'"(?:[^"\\\n]|\\.)*"')
    found = []
    for path in sorted((REPO / "sluice").rglob("*.cc")) + sorted((REPO / "sluice").rglob("*.h")):
        if path.stem.endswith(("_test", "_bench")) or path.stem == "testing":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = {word for text in literal.findall(line.partition("//")[0])
                     for word in re.findall(r"[a-z][a-z0-9_]*", text.lower())}
            found += [f"{path.relative_to(REPO)}:{number}: {name}" for name in agents & words]
    assert found == []


@pytest.mark.parametrize("path, line, why", [
    ("sluice/base/core/a.h", '#include "sluice/base/log.h"', "must not include sluice/base/log.h"),
    ("sluice/json/a.cc", '#include "sluice/net/shard.h"', "json must not include"),
    ("sluice/guest/program/a.cc", '#include "sluice/base/log.h"', "guest/program must not include"),
    ("sluice/sandbox/a.cc", '#include "sluice/llm/call.h"', "sandbox must not include"),
    ("sluice/llm/a.cc", '#include "sluice/net/http.h"', "llm must not include"),
    ("sluice/trace/a.cc", '#include "sluice/gate/gate.h"', "trace must not include"),
    ("sluice/gate/a.cc", '#include "sluice/net/socket.h"', "gate must not include"),
    ("sluice/gate/a.cc", '#include "sluice/sandbox/sandbox.h"', "gate must not include"),
    ("sluice/upstream/a.cc", '#include "sluice/sandbox/sandbox.h"', "upstream must not include"),
    ("sluice/agent/a.cc", '#include "sluice/net/http.h"', "agent must not include"),
    ("sluice/rollout/a.cc", '#include "sluice/sandbox/local/backend.h"', "rollout must not include"),
    ("sluice/rollout/a.cc", '#include "sluice/upstream/client.h"', "rollout must not include"),
    ("sluice/attic/a.cc", "int a;", "in no unit"),
    ("sluice/gate/a.cc", "#include <boost/beast/http.hpp>", "does not belong in gate"),
    ("sluice/llm/a.h", "#include <boost/asio/awaitable.hpp>", "does not belong in a header of llm"),
    ("sluice/base/a.h", "#include <toml++/toml.h>", "does not belong in a header of base"),
    ("sluice/gate/a.cc", '#include "gate.h"', "name it from the root"),
    ("sluice/gate/a_test.cc", '#include "sluice/rollout/rollout.h"', "gate must not include"),
])
def test_layers_finds(tmp_path, path, line, why):
    done = run(tmp_path, "layers", {path: f"// A file.\n{line}\n"})
    assert done.returncode == 1, done.stdout
    assert path in done.stdout
    assert why in done.stdout


def test_layers_finds_a_link_to_a_room_below(tmp_path):
    done = run(tmp_path, "layers", {
        "sluice/llm/CMakeLists.txt": "sluice_room(NAME llm SOURCES a.cc DEPENDS sluice_gate)\n",
        "sluice/llm/a.cc": "int a;\n"})
    assert done.returncode == 1, done.stdout
    assert "llm must not link sluice_gate" in done.stdout


def test_layers_finds_a_test_that_is_never_built(tmp_path):
    done = run(tmp_path, "layers", {
        "sluice/llm/CMakeLists.txt": "sluice_room(NAME llm SOURCES a.cc TESTS a_test.cc)\n",
        "sluice/llm/a.cc": "int a;\n", "sluice/llm/a_test.cc": "int b;\n",
        "sluice/llm/b_test.cc": "int c;\n"})
    assert done.returncode == 1, done.stdout
    assert "sluice/llm/b_test.cc: is in no CMakeLists.txt" in done.stdout
    assert "a_test.cc" not in done.stdout.replace("b_test.cc", "")


def test_layers_finds_a_second_starter_of_agents(tmp_path):
    done = run(tmp_path, "layers", {
        "sluice/rollout/CMakeLists.txt": "sluice_room(NAME rollout SOURCES a.cc TESTS a_test.cc)\n",
        "sluice/rollout/a.cc": "auto launch = agent::make_launch(plan, endpoint, program);\n",
        "sluice/rollout/a_test.cc": "auto launch = agent::make_launch(plan, endpoint, program);\n"})
    assert done.returncode == 1, done.stdout
    assert "sluice/rollout/a.cc: must not call make_launch" in done.stdout
    assert "a_test.cc" not in done.stdout


def test_layers_accepts_what_is_allowed(tmp_path):
    done = run(tmp_path, "layers", {
        "sluice/gate/gate.cc":
            '#include "sluice/gate/gate.h"\n#include "sluice/net/http.h"\n#include <fmt/format.h>\n',
        "sluice/gate/gate_test.cc": '#include <gtest/gtest.h>\n#include "sluice/sandbox/fake/fake.h"\n',
        "sluice/cli/run.cc": '#include "sluice/sandbox/local/backend.h"\n#include <CLI/CLI.hpp>\n',
        "sluice/gate/CMakeLists.txt":
            "sluice_room(NAME gate SOURCES gate.cc DEPENDS sluice_trace PRIVATE fmt::fmt\n"
            "  TESTS gate_test.cc\n  TEST_PRIVATE sluice_sandbox_fake)\n",
        "sluice/cli/CMakeLists.txt": "add_executable(sluice run.cc)\n"})
    assert done.returncode == 0, done.stdout


def includes(*names):
    return "".join(f'#include "sluice/{name}"\n' for name in names)


def test_circles_finds_the_way_back_through_headers_and_sources(tmp_path):
    done = run(tmp_path, "circles", {
        "sluice/gate/a.h": "int a;\n",
        "sluice/gate/a.cc": includes("gate/a.h", "gate/b.h"),
        "sluice/gate/b.h": includes("gate/c.h"),
        "sluice/gate/c.cc": includes("gate/c.h", "gate/a.h"),
        "sluice/gate/c.h": "int c;\n",
        "sluice/gate/outside.cc": includes("gate/a.h")})
    assert done.returncode == 1, done.stdout
    assert "sluice/gate/a -> sluice/gate/b -> sluice/gate/c -> sluice/gate/a: a circle\n" in done.stdout
    assert done.stdout.count("a circle") == 1
    assert "outside" not in done.stdout


def test_circles_finds_each_of_several(tmp_path):
    done = run(tmp_path, "circles", {
        f"sluice/gate/{one}.h": includes(f"gate/{other}.h") for one, other in ("ab", "ba", "cd", "dc")})
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("a circle") == 2


def test_circles_accepts_trees_and_tests_of_what_they_test(tmp_path):
    done = run(tmp_path, "circles", {
        "sluice/gate/a.h": includes("gate/c.h"),
        "sluice/gate/a.cc": includes("gate/a.h", "gate/b.h"),
        "sluice/gate/b.h": includes("gate/c.h"),
        "sluice/gate/c.h": "int c;\n",
        "sluice/gate/c_test.cc": includes("gate/a.h", "gate/c.h"),
        "sluice/gate/testing.h": includes("gate/a.h", "gate/testing.h")})
    assert done.returncode == 0, done.stdout


def long_list(tree, entry):
    """tools/check of the tree with one entry in its list of files that may be long."""
    check = tree / "tools" / "check"
    check.write_text(check.read_text().replace("LONG = {\n", f"LONG = {{\n    {entry},\n"))


def test_sizes_finds_what_is_too_long_and_counts_lines_of_code(tmp_path):
    done = run(tmp_path, "sizes", {
        "sluice/gate/a.cc": "// A comment.\n\n  // Another.\nint a;  // code\n" + "int b;\n" * 697,
        "sluice/gate/a.h": "int a;\n" * 700,
        "sluice/gate/a_test.cc": "int a;\n" * 701,
        "sluice/gate/fuzzing.h": "int a;\n",
        "sluice/gate/openapi.json": "\n" * 900,
        "tests/a.cc": "int a;\n" * 900})
    assert done.returncode == 1, done.stdout
    assert "sluice/gate/a.cc: 701 lines" in done.stdout
    assert "sluice/gate/a_test.cc: 701 lines" in done.stdout
    assert done.stdout.count("split it") == 2
    assert "sizes: 1398 lines of code" in done.stdout


def test_sizes_accepts_files_with_a_reason_only_while_they_are_long(tmp_path):
    long = {"sluice/gate/a.cc": "int a;\n" * 701}
    run(tmp_path, "sizes", long)
    long_list(tmp_path, '"sluice/gate/a.cc": "a table"')
    again = [tmp_path / "tools" / "check", "sizes"]
    assert subprocess.run(again, check=False).returncode == 0
    (tmp_path / "sluice/gate/a.cc").write_text("int a;\n")
    done = subprocess.run(again, check=False, text=True, stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert "sluice/gate/a.cc: is in LONG" in done.stdout


@pytest.mark.parametrize("text", [
    "see registry.npm" + "js.org",
    "https://pypi" + ".org/simple",
    "# TO" + "DO: later",
    "Generated by " + "an LLM",
    "cd /wo" + "rk/main",
])
def test_names_finds(tmp_path, text):
    done = run(tmp_path, "names", {"README.md": f"# Sluice\n\n{text}\n"})
    assert done.returncode == 1, done.stdout
    assert "README.md:3:" in done.stdout


def test_names_accepts_the_sandboxes_own_paths(tmp_path):
    done = run(tmp_path, "names", {"README.md": "HOME is /home/user, the workdir /home/user/workdir.\n"})
    assert done.returncode == 0, done.stdout


def test_format_finds_and_names_the_file(tmp_path):
    done = run(tmp_path, "format", {"sluice/a.cc": "int   a ;\n", "sluice/b.cc": "int b;\n"})
    assert done.returncode == 1
    assert "sluice/a.cc" in done.stdout and "sluice/b.cc" not in done.stdout


def test_shell_finds_scripts_by_their_first_line(tmp_path):
    done = run(tmp_path, "shell", {"run": '#!/usr/bin/env bash\nrm -rf $1/*\n'})
    assert done.returncode == 1
    assert "SC2086" in done.stdout


def test_an_unknown_check_is_an_error(tmp_path):
    assert run(tmp_path, "layer", {}).returncode == 2


def findings(rows):
    lines = "".join(f"| {row} | asked | here | shown |\n" for row in rows)
    return f"# Findings\n\n| # | asked | here | shown by |\n|---|---|---|---|\n{lines}"


NAME = "finding" + "_7_nothing_leaks"


@pytest.mark.parametrize("table, test, why", [
    (findings(range(1, 80)), "", "row 80 is there 0 times"),
    (findings([*range(1, 81), 5]), "", "row 5 is there 2 times"),
    (findings(range(1, 81)) + f"`{NAME}`\n", "", f"there is no test {NAME}"),
    (findings(range(1, 81)), f"TEST(Gate, {NAME}) {{}}\n", f"does not mention {NAME}"),
])
def test_findings_finds(tmp_path, table, test, why):
    done = run(tmp_path, "findings",
               {"docs/review-findings.md": table, "sluice/gate/gate_test.cc": test})
    assert done.returncode == 1
    assert why in done.stdout


INVARIANT = "| 1 | an agent is data | {} |\n"


@pytest.mark.parametrize("shown, why", [
    ("`nobody_shows_it`", "row 1: there is no test nobody_shows_it"),
    ("`tests/gone.py`", "row 1: there is no tests/gone.py"),
    ("`sluice/gate/gate_test.cc`", "row 1 names no test"),
    ("design", "row 1 names no test"),
])
def test_findings_finds_an_invariant_that_nothing_shows(tmp_path, shown, why):
    done = run(tmp_path, "findings", {
        "docs/review-findings.md": findings(range(1, 81)),
        "docs/invariants.md": INVARIANT.format(shown), "sluice/gate/gate_test.cc": "\n"})
    assert done.returncode == 1
    assert why in done.stdout


@pytest.mark.parametrize("shown", ["`is_seen` in `sluice/gate/gate_test.cc`", "`test_a_row`",
                                   "`a_case`", "`sluice sandboxes test`: `a_case`", "`x_fuzz`"])
def test_findings_accepts_invariants_that_are_shown(tmp_path, shown):
    done = run(tmp_path, "findings", {
        "docs/review-findings.md": findings(range(1, 81)),
        "docs/invariants.md": INVARIANT.format(shown),
        "sluice/gate/gate_test.cc": "TEST(Gate, is_seen) {}\n", "tests/test_a.py": "def test_a_row(): pass\n",
        "sluice/sandbox/cases.cc": "SLUICE_CASE(files, a_case) {}\n", "sluice/json/x_fuzz.cc": "\n"})
    assert done.returncode == 0, done.stdout


def test_findings_accepts_a_true_table(tmp_path):
    done = run(tmp_path, "findings", {
        "docs/review-findings.md": findings(range(1, 81)) + f"`{NAME}`\n",
        "docs/invariants.md": INVARIANT.format(f"`{NAME}`"),
        "sluice/gate/gate_test.cc": f"TEST(Gate, {NAME}) {{}}\n"})
    assert done.returncode == 0, done.stdout
