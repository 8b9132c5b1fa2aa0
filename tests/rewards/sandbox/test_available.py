"""A sandbox that cannot be had stops the command before anything is trained, says what is missing, and nothing weaker is taken."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from corollary.errors import ConfigError
from corollary.rewards.base import Reward
from corollary.rewards.parts import RewardSpec
from corollary.rewards.sandbox import Limits, bubblewrap, monty, sandbox, seccomp
from rewards.sandbox.boxes import needed

ROOT = Path(__file__).parents[3]


@pytest.fixture
def untried():
    """Forgets which sandboxes were seen to work, before and after."""
    for module in (bubblewrap, monty):
        module._tried.cache_clear()
    yield
    for module in (bubblewrap, monty):
        module._tried.cache_clear()


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Reward([RewardSpec(type="code", params={"sandbox": name})])
    assert caught.value.exit_status == 2
    assert caught.value.code == "E0120"
    return caught.value.line()


def test_no_bwrap_is_said_with_what_to_install_and_the_other_ways(untried, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    line = refused("bubblewrap")
    assert "there is no bwrap" in line
    assert "apt-get install bubblewrap" in line
    assert "sandbox: monty" in line
    assert "unsafe_subprocess, which contains nothing" in line


def test_a_kernel_without_user_namespaces_is_quoted(untried, monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert "bwrap: No permissions to create new namespace; it needs user namespaces" in refused("bubblewrap")


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root to forbid namespaces")
def test_a_kernel_that_really_forbids_them_is_refused():
    needed("bubblewrap")
    attempt = "from corollary.rewards.sandbox import sandbox; sandbox('bubblewrap')"
    forbid = f'echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c "{attempt}"'
    done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", forbid], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ConfigError: error[E0120] the sandbox bubblewrap cannot be used: bwrap: " in done.stderr
    assert "it needs user namespaces" in done.stderr


def test_no_monty_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    monkeypatch.setattr("corollary.rewards.sandbox.find_spec", lambda name: None)
    line = refused("monty")
    assert "pydantic-monty is not installed" in line
    assert "pip install 'corollary[code]'" in line
    assert "sandbox: bubblewrap" in line


def test_a_monty_that_does_not_start_is_refused(untried, monkeypatch, tmp_path):
    needed("monty")
    monty._tried.cache_clear()
    monkeypatch.setenv("MONTY_BIN", str(tmp_path / "nothing"))
    assert "the sandbox monty does not start" in refused("monty")


def test_a_machine_without_a_list_of_system_calls_is_refused(untried, monkeypatch):
    needed("bubblewrap")
    bubblewrap._tried.cache_clear()
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match="no list of system calls for riscv64; there is one for x86_64 and aarch64"):
        sandbox("bubblewrap", Limits())


def test_the_script_says_in_one_line_what_it_found_and_never_fails():
    done = subprocess.run(["bash", ROOT / "scripts/sandbox.sh"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("sandbox: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/usr/include/asm-generic/unistd.h").exists(), reason="the kernel's headers are not here")
def test_the_numbers_are_the_kernels():
    x86 = next(Path("/usr/include").glob("*/asm/unistd_64.h")).read_text()
    arm = Path("/usr/include/asm-generic/unistd.h").read_text()
    for machine, header in (("x86_64", x86), ("aarch64", arm)):
        known = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header))
        known["newfstatat"] = known.get("newfstatat", known.get("fstatat"))
        for name, number in seccomp.numbers(machine).items():
            assert known[name] == str(number), f"{machine} {name}"
