"""Where a run was made: device, memory and revision, in every result."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import sweeps
import torch

from interp.engine import patch, surroundings
from interp.engine.surroundings import device_name, git_revision, peak_memory
from interp.sites import grid


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit with a tag, which is not what is asked for."""
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "v1")
    monkeypatch.chdir(tmp_path)
    surroundings._revision.cache_clear()
    return tmp_path


def test_the_commit_of_the_working_directory(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert git_revision() == commit
    (repository / "b.py").write_text("new, and in no commit")
    surroundings._revision.cache_clear()
    assert git_revision() == commit
    (repository / "a.py").write_text("a = 2\n")
    assert git_revision() == commit, "asked for once"
    surroundings._revision.cache_clear()
    assert git_revision() == f"{commit}+dirty"


def test_a_program_that_watches_a_repository_is_not_run(repository: Path) -> None:
    program = repository / "watch"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(program))
    assert git_revision() is not None
    assert not (repository / "ran").exists()


def test_no_repository_no_git_and_none_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_revision() is None
    for error in (FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)):

        def failing(*args: object, _error: Exception = error, **options: object) -> None:
            raise _error

        surroundings._revision.cache_clear()
        monkeypatch.setattr(subprocess, "run", failing)
        assert git_revision() is None


def test_memory_grows_with_what_is_held() -> None:
    device = torch.device("cpu")
    before = peak_memory(device)
    held = torch.ones(1 << 26)  # 256 MiB, all of them written
    after = peak_memory(device)
    assert before is not None
    assert after is not None
    assert after["bytes"] >= held.nbytes
    assert after["bytes"] >= before["bytes"]
    assert after["of"] == "memory resident in the process, since it began"
    assert peak_memory(torch.device("meta")) is None


def test_a_device_has_a_name() -> None:
    assert device_name(torch.device("cpu"))
    assert device_name(torch.device("meta")) == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_of_a_gpu() -> None:
    device = torch.device("cuda:0")
    held = torch.ones(1 << 20, device=device)
    assert device_name(device) == torch.cuda.get_device_name(0)
    found = peak_memory(device)
    assert found is not None
    assert found["bytes"] >= held.nbytes
    assert found["of"].startswith("GPU memory")


def test_results_say_it_and_nothing_of_the_machine_or_its_user() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(0, [5, 6])
    attrs = patch(model, pairs, grid("z", layer=0)).attrs
    assert attrs["device_name"] == device_name(model.device)
    assert attrs["peak_memory"]["bytes"] > 1e7
    assert attrs["versions"]["python"].startswith("3.")
    assert "git_revision" in attrs
    assert os.uname().nodename not in repr(attrs)
