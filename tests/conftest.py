"""What every test shares: one thread, no hub, checked annotations, a printed seed, tiny random models and a real one.

``INTERP_TEST_SEED=…`` repeats a run's random draws, ``INTERP_TYPECHECK=0`` leaves annotations unchecked, and
``INTERP_REQUIRE_REAL=1`` fails the tests of the real model, rather than skipping them, where it cannot be had;
``INTERP_REQUIRE_BROWSER=1`` those of the app where there is no Chromium. ``CI=1`` makes hypothesis draw the same cases in every
run. Nothing here imports torch before a fixture asks for a model, so that tests of the store and of the views stay light.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Set before anything below is imported, and inherited by every process that a test starts. torch reads its thread count here:
# two threads on a shared machine are slower and noisier for models this small.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

if os.environ.get("INTERP_TYPECHECK", "1") != "0":
    import checked

    checked.install()

from hypothesis import settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interp.models import Model

ACCEPTANCE = Path(__file__).parent / "acceptance"
# Several processes (pytest -n) draw by the one seed of the first.
RUN_SEED = int(os.environ.get("INTERP_TEST_SEED") or secrets.randbits(32))
os.environ["INTERP_TEST_SEED"] = str(RUN_SEED)

# No deadline: it would measure the neighbours on a shared machine.
settings.register_profile("interp", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("interp")


def pytest_report_header() -> str:
    return f"random draws: INTERP_TEST_SEED={RUN_SEED}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Acceptance tests take long: they run when named (``pytest tests/acceptance``, ``.ci/acceptance``), never by the way."""
    named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
    asked = any(path.is_relative_to(ACCEPTANCE) for path in named)
    return True if collection_path == ACCEPTANCE and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the real model, through whichever fixture, carries the marker ``real``."""
    for item in items:
        if {"smollm2", "smollm2_gguf"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("real")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed for this test; the same again under the same ``INTERP_TEST_SEED``, whatever else runs."""
    drawn = zlib.crc32(f"{RUN_SEED} {request.node.nodeid}".encode())
    print(f"seed {drawn} (INTERP_TEST_SEED={RUN_SEED})")  # pytest shows it where the test fails
    return drawn


@pytest.fixture
def tiny_gpt2(seed: int) -> PreTrainedModel:
    """Random GPT-2: learned positions, fused projections, biases, LayerNorm."""
    import tiny

    return tiny.gpt2(seed)


@pytest.fixture
def tiny_llama(seed: int) -> PreTrainedModel:
    """Random Llama with grouped-query attention: rotary positions, gated MLP, RMSNorm."""
    import tiny

    return tiny.llama(seed)


@pytest.fixture
def tiny_mistral(seed: int) -> PreTrainedModel:
    """Random Mistral whose attention sees the last four positions only."""
    import tiny

    return tiny.mistral(seed)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as its GGUF file."""
    import smollm2

    return _real(smollm2.gguf)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a folder: float32 safetensors, config and tokenizer."""
    import smollm2

    return _real(smollm2.folder)


@pytest.fixture(scope="session")
def loaded_smollm2(smollm2: Path) -> Model:
    """The same, loaded once in each process, for tests that leave it as it is."""
    import interp

    return interp.load(smollm2)


def _real(fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except OSError as reason:
        if os.environ.get("INTERP_REQUIRE_REAL") == "1":
            raise
        pytest.skip(f"the real model cannot be had: {reason}")
