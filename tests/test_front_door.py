"""./dev keeps its promises: it installs only what is missing, never trusts half an installation,
and never calls a failure a success."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

DEV = Path(__file__).resolve().parent.parent / "dev"


@pytest.fixture
def stubs(tmp_path):
    """A folder at the front of PATH, and a file to which the stubs in it write how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "calls").touch()

    def add(name, script):
        stub = folder / name
        stub.write_text(f'#!/bin/bash\necho "{name} $*" >>"{tmp_path}/calls"\n{script}\n')
        stub.chmod(0o755)

    add.folder = folder
    add.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return add


def environment(tmp_path, stubs=None):
    path = os.environ["PATH"]
    return os.environ | {
        "SLUICE_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": f"{stubs.folder}:{path}" if stubs else path,
    }


def bash(script, tmp_path, stubs=None, **options):
    """Runs a script that has ./dev's functions."""
    return subprocess.run(
        ["bash", "-c", f'source "{DEV}"\n{script}'], env=environment(tmp_path, stubs), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False, **options)


def cache_content(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock"))


def test_works_from_any_folder_and_refuses_what_it_does_not_know(tmp_path):
    shown = subprocess.run([DEV], cwd=tmp_path, text=True, stdout=subprocess.PIPE, check=True).stdout
    assert "./dev COMMAND" in shown
    link = tmp_path / "link-to-dev"
    link.symlink_to(DEV)
    assert subprocess.run([link, "help"], cwd="/", text=True, stdout=subprocess.PIPE,
                          check=True).stdout == shown
    for arguments in (["demonstrate"], ["build", "fast"], ["test", "--fast"], ["bench", "nothing"]):
        done = subprocess.run([DEV, *arguments], cwd=tmp_path, text=True, check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert done.returncode == 1, arguments
        assert arguments[-1] in done.stderr


# --- Packages ------------------------------------------------------------------------------------

DPKG_KNOWS = 'echo -n "cmake=installed ccache=half-configured "; exit 1'


def test_installs_only_what_is_not_wholly_installed(tmp_path, stubs):
    stubs("dpkg-query", DPKG_KNOWS)
    stubs("dpkg", "")
    stubs("apt-get", "")
    stubs("sudo", 'exec "$@"')
    done = bash("can_be_root() { true; }; need_packages cmake ccache ninja-build", tmp_path, stubs)
    assert done.returncode == 0, done.stdout
    installs = [call for call in stubs.calls()
                if call.startswith("apt-get ") and " install " in call]
    assert len(installs) == 1
    assert installs[0].endswith(" install ccache ninja-build")
    assert "--no-install-recommends" in installs[0]
    assert not any("update" in call for call in stubs.calls())


def test_installs_nothing_when_nothing_is_missing(tmp_path, stubs):
    stubs("dpkg-query", 'echo -n "cmake=installed ccache=installed "')
    stubs("apt-get", "exit 1")
    done = bash("need_packages cmake ccache", tmp_path, stubs)
    assert (done.returncode, done.stdout) == (0, "")


def test_updates_the_package_lists_only_when_they_do_not_serve(tmp_path, stubs):
    stubs("dpkg-query", "exit 1")
    stubs("dpkg", "")
    stubs("sudo", 'exec "$@"')
    stubs("apt-get", f'[[ "$*" == *update* ]] && touch "{tmp_path}/updated"; [[ -e "{tmp_path}/updated" ]]')
    done = bash("can_be_root() { true; }; need_packages cmake", tmp_path, stubs)
    assert done.returncode == 0, done.stdout
    assert [call.split()[-1] for call in stubs.calls() if call.startswith("apt-get")] == [
        "cmake", "update", "cmake"]


def test_completes_an_interrupted_installation(tmp_path, stubs):
    stubs("dpkg-query", 'echo "reinstreq libtorn"; exit 1')
    stubs("dpkg", 'if [[ $1 == --audit ]]; then echo "in a mess: libtorn"; else exit 1; fi')
    stubs("sudo", 'exec "$@"')
    stubs("apt-get", f'[[ "$*" == *"--reinstall install libtorn" ]] && touch "{tmp_path}/mended"; '
                     f'[[ "$*" == *update || -e "{tmp_path}/mended" ]]')
    done = bash("can_be_root() { true; }; need_packages cmake", tmp_path, stubs)
    assert done.returncode == 0, done.stdout
    assert [call.split()[0] + " " + call.split()[-1] for call in stubs.calls()
            if not call.startswith(("dpkg-query", "sudo"))] == [
        "apt-get cmake", "apt-get update", "dpkg --audit", "dpkg -a", "apt-get libtorn",
        "apt-get cmake"]


def test_a_failed_installation_is_an_error_that_says_why(tmp_path, stubs):
    stubs("dpkg-query", "exit 1")
    stubs("dpkg", "")
    stubs("sudo", 'exec "$@"')
    stubs("apt-get", "echo E: no such thing; exit 100")
    done = bash("can_be_root() { true; }; need_packages cmake; echo went on", tmp_path, stubs)
    assert done.returncode == 1
    assert "E: no such thing" in done.stdout
    assert "went on" not in done.stdout


def test_without_root_and_sudo_it_says_what_to_run(tmp_path, stubs):
    stubs("dpkg-query", DPKG_KNOWS)
    stubs("apt-get", "exit 1")
    done = bash("can_be_root() { false; }; need_packages cmake ninja-build", tmp_path, stubs)
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends ninja-build" in done.stdout
    assert not any(call.startswith("apt-get") for call in stubs.calls())


# --- The cache -----------------------------------------------------------------------------------

MAKE = """
make() { echo made >>"$SLUICE_CACHE_DIR/../made"; echo whole >"$1/file"; }
cached thing make
cat "$entry/file"
"""


def test_a_cache_entry_is_made_once(tmp_path):
    for _ in range(2):
        assert bash(MAKE, tmp_path).stdout == "whole\n"
    assert (tmp_path / "made").read_text() == "made\n"


def test_a_cache_entry_that_could_not_be_made_leaves_nothing(tmp_path):
    done = bash('make() { echo half >"$1/file"; false; }; cached thing make; echo went on', tmp_path)
    assert done.returncode != 0
    assert "went on" not in done.stdout
    assert cache_content(tmp_path) == []
    assert bash(MAKE, tmp_path).stdout == "whole\n"


def test_a_cache_entry_whose_maker_was_killed_is_not_trusted(tmp_path):
    making = subprocess.Popen(
        ["bash", "-c", f'source "{DEV}"; make() {{ echo half >"$1/file"; sleep 60; }}; cached thing make'],
        env=environment(tmp_path), start_new_session=True)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("cache/thing.*/file")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(making.pid, signal.SIGKILL)
    making.wait()
    assert list(tmp_path.glob("cache/thing.*/file")), "nothing was left, so this shows nothing"
    assert bash(MAKE, tmp_path).stdout == "whole\n"
    assert len(cache_content(tmp_path)) == 2, "the entry and its directory, and no remains"


def test_two_at_once_make_a_cache_entry_once(tmp_path):
    slow = MAKE.replace('echo whole', 'sleep 0.5; echo whole')
    both = [subprocess.Popen(["bash", "-c", f'source "{DEV}"\n{slow}'], env=environment(tmp_path),
                             stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=30)[0] for process in both] == ["whole\n"] * 2
    assert (tmp_path / "made").read_text() == "made\n"


# --- Stages of a test run ------------------------------------------------------------------------


def test_a_stage_that_fails_is_counted_and_the_next_one_runs(tmp_path):
    done = bash("""
        half() { false; echo "went on after a failure"; }
        stage first half
        then_stage second true
        stage third true
        then_stage fourth true
        printf '%s\\n' "${results[@]}"
        echo "failures=$failures"
    """, tmp_path)
    assert "went on" not in done.stdout
    assert re.findall(r"^(.*)[|].*[|](.*)$", done.stdout, re.M) == [
        ("FAILED", "first"), ("not run", "second"), ("ok", "third"), ("ok", "fourth")]
    assert "not run|-|second" in done.stdout
    assert "failures=1" in done.stdout


def test_counts_come_from_what_ctest_and_the_fuzzers_wrote(tmp_path):
    folder = tmp_path / "test-results"
    folder.mkdir()
    for name, counts in (("a", (10, 2, 1, 3)), ("b", (5, 0, 0, 0))):
        tests, failures, disabled, skipped = counts
        (folder / f"{name}.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="x"\n\ttests="{tests}"\n'
            f'\tfailures="{failures}"\n\tdisabled="{disabled}"\n\tskipped="{skipped}"\n\ttime="1"\n>\n'
            '\t<testcase name="y" tests="99"/>\n</testsuite>\n')
    (folder / "fuzzers").write_text("passed\nfailed\npassed\n")
    done = bash(f'test_results="{folder}"; count_tests\n'
                'echo "$passed_tests $failed_tests $skipped_tests"', tmp_path)
    assert done.stdout == "11 3 4\n"
