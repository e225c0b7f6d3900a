"""nnsight under interp equals torch hooks on the same weights, here and as requests to a service.

Expected numbers: the default backend on a copy of the network. The service is nnsight's own executor of requests in a process
of its own that has neither this package nor its tests: requests are nnsight's bytes, answers are read by nnsight's own client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FAMILIES = ("gpt2", "llama", "gpt-neox", "mistral", "gemma2", "bloom")
MIXTURES = ("mixtral", "gpt-oss")
"""Of experts, whose own contributions are computed by calling them inside a pass."""
THERE = (*(family for family in FAMILIES if family != "mistral"), "mixtral")
LACKING = {"falcon": {"scores", "pattern"}, "dit": {"scores", "pattern"}}
"""Components that torch hooks reach and nnsight does not: it looks for one softmax in the source of attention."""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    support = Path(__file__).parents[2] / "support"
    path = os.pathsep.join([str(support), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("nnsight_worker.py"))], stdin=-1, stdout=-1, text=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    yield process
    process.communicate()


@pytest.fixture
def ask(worker: subprocess.Popen[str]) -> Ask:
    def check(name: str, **arguments: Any) -> dict[str, Any]:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(json.dumps({"check": name, **arguments}) + "\n")
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline() or '{"error": "the process ended; its own words are above"}')
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        print(answer)
        if "worst" in answer:
            assert max(answer["worst"].values()) <= 1
        return answer

    return check


@pytest.fixture(scope="module")
def drawn() -> int:
    """One seed for all, so that the worker makes each model once; fixed, because it names the models."""
    return 20261121


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES, "t5", "falcon", "dit"])
def test_sites(family: str, ask: Ask, drawn: int) -> None:
    answer = ask("sites", family=family, seed=drawn)
    assert answer["probe"]
    assert set(answer["lacking"]) == LACKING.get(family, set())
    for reason in answer["lacking"].values():
        assert "softmaxes are called in the source of" in reason


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
@pytest.mark.parametrize("check", ["writes", "own_values", "sweeps", "gradients"])
def test_as_torch_hooks(check: str, family: str, ask: Ask, drawn: int) -> None:
    ask(check, family=family, seed=drawn)


def test_the_module_is_left_as_it_was(ask: Ask, drawn: int) -> None:
    answer = ask("untouched", seed=drawn)
    assert answer["as_before"] == [True, True, True]
    assert answer["same"]
    zero, shape = answer["raised"]
    assert zero.startswith("ZeroDivisionError")
    assert shape.startswith("ShapeMismatchError: the write of L0.resid_post returned")


def test_a_module_that_its_user_wrapped(ask: Ask, drawn: int) -> None:
    answer = ask("wrapped_by_users", seed=drawn)
    assert answer["moved"] > 0.1
    assert answer["same"]


def test_hooks_of_users_stay(ask: Ask, drawn: int) -> None:
    assert ask("hooks_of_users", seed=drawn) == {"seen": 1, "hooks": 1}


def test_a_site_fires_once_or_raises(ask: Ask, drawn: int) -> None:
    raised = ask("fired", seed=drawn)["raised"]
    assert raised["embed"] == ""
    assert raised["again"].startswith("SiteNotFiredError: model.again.output fired 2 times in one forward pass, expected 1")
    assert raised["idle"].startswith("SiteNotFiredError: 'model.idle.")


@pytest.mark.parametrize("family", THERE)
def test_remote_sites(family: str, ask: Ask, drawn: int) -> None:
    """One request a pass, without the weights; sites found on the twin are those found on the weights."""
    answer = ask("remote_sites", family=family, seed=drawn)
    assert answer["taps"]
    assert set(answer["lacking"]) == {"scores", "pattern"}
    assert "attention implementation" in answer["lacking"]["pattern"]
    assert answer["passes"] == 1
    assert answer["bytes"] < 60_000  # the smallest of these networks has 130 000 bytes of weights
    assert answer["causal"]
    assert answer["device"] == ["cpu", "meta"]
    assert answer["digest"] == "unverified-main"


@pytest.mark.parametrize("family", THERE)
@pytest.mark.parametrize("check", ["remote_writes", "remote_sweeps"])
def test_remote_as_torch_hooks(check: str, family: str, ask: Ask, drawn: int) -> None:
    ask(check, family=family, seed=drawn)


def test_remote_interventions(ask: Ask, drawn: int) -> None:
    ask("remote_interventions", seed=drawn)


def test_remote_probe(ask: Ask, drawn: int) -> None:
    answer = ask("remote_probe", seed=drawn)
    causal, checked, worst = answer["probe"]
    assert causal
    assert checked == 46
    assert worst < 1e-5
    assert answer["requests"] > 10


def test_remote_padding(ask: Ask, drawn: int) -> None:
    ask("remote_padding", seed=drawn)


def test_remote_by_name(ask: Ask, drawn: int) -> None:
    answer = ask("remote_by_name", seed=drawn)
    name, refused, probe, key = answer["said"]
    assert (name, refused) == ("far", "its backend NDIF runs whole forward passes only")
    assert probe.startswith("Probe(causal=True")
    kind, _, rest = key.partition(":")
    assert kind == "nnsight.modeling.transformers.TransformersModel"
    assert json.loads(rest)["repo_id"] == "somebody/llama"
    assert answer["vocabulary"]


def test_nnsights_own_simulation(ask: Ask, drawn: int) -> None:
    ask("simulated", seed=drawn)


def test_remote_errors(ask: Ask, drawn: int) -> None:
    raised = ask("remote_errors", seed=drawn)["raised"]
    expected = {
        "shape": "ShapeMismatchError: the write of L0.resid_post returned (3, 5, 32) for a tensor of shape (3, 6, 32)",
        "own": "RemoteError: the service could not run gpt2: KeyError: 0",
        "travel": "RemoteError: a change cannot travel to the service: ",
        "gradients": "GradientError: what comes back from the NDIF service has no gradients",
        "pattern": "UnknownSiteError: unknown site 'pattern': gpt2 does not have it, because which attention implementation",
        "key": "LoadError: remote=True needs an API key of the service",
        "hub": "LoadError: ",
        "service": "RemoteError: the service cannot be reached at http://127.0.0.1:9",
    }
    for name, start in expected.items():
        assert raised[name].startswith(start), name
        assert "\n" not in raised[name], name
    assert "cannot be had for the NDIF service" in raised["hub"]
