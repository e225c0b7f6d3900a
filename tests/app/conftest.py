"""A store of results made up by a formula, so that every number is known, and a headless browser to open pages with."""

import os
import shutil

import numpy as np
import pytest
import xarray as xr

from interp import effects
from interp.app.data import Library
from interp.store import Store

LAYERS, POSITIONS, EXAMPLES = 3, 5, 6
CLEAN = ["<bos>", " Ann", " met", " Bob", " to"]
CHANGED = 3


def share(layer, position):
    """How much of the clean run a cell restores."""
    return (layer + 1) / LAYERS if position == CHANGED else 0.0


def sweep(scale=1.0, *, seed=0, metrics=("logit_diff", "prob"), **attrs):
    """Layer × position: cell (l, 3) of example e has the value corrupt + scale · share(l) · (clean − corrupt)."""
    clean = np.stack([np.linspace(2, 4, EXAMPLES) + seed + m for m in range(len(metrics))]).astype("float32")
    corrupt = -clean
    shares = np.array([[share(layer, p) for p in range(POSITIONS)] for layer in range(LAYERS)], "float32") * scale
    value = corrupt[:, None, None] + shares[None, :, :, None] * (clean - corrupt)[:, None, None]
    names = ["Cy", "Di", "Ed", "Flo", "Gus", "Hal"]
    tokens = np.array([[word] * EXAMPLES for word in CLEAN], object)
    other = tokens.copy()
    other[CHANGED] = [f" {name}{seed or ''}" for name in names]
    return effects.assemble(
        value,
        clean,
        corrupt,
        axes={"layer": range(LAYERS), "position": range(POSITIONS)},
        metrics=list(metrics),
        coords={
            "template": [f"t{i % 2}" for i in range(EXAMPLES)],
            "clean_prompt": ["Ann met Bob to"] * EXAMPLES,
            "corrupted_prompt": [f"Ann met {name}{seed or ''} to" for name in names],
            "answer": [" Bob"] * EXAMPLES,
            "wrong": [f" {name}" for name in names],
            "clean_token": tokens,
            "corrupted_token": other,
        },
        attrs={
            "patching": "denoising",
            "noise_floor": dict.fromkeys(metrics, 1e-6),
            "engine_semantics": 1,
            "spec": {"scale": scale, "seed": seed, "attrs": {k: str(v) for k, v in attrs.items()}},
            "model": "tiny <model>",
            "task": "ioi",
            "site": "resid_pre",
            "source": "clean",
        }
        | attrs,
    )


def heads():
    """Layer × head × role, where the head with the number of the layer restores half at the role END."""
    clean = np.linspace(2, 4, EXAMPLES, dtype="float32")[None]
    value = np.broadcast_to(-clean[:, None, None, None], (1, LAYERS, 4, 2, EXAMPLES)).copy()
    for layer in range(LAYERS):
        value[0, layer, layer, 1] = 0
    coords = {"clean_prompt": ["Ann met Bob to"] * EXAMPLES, "corrupted_prompt": ["Ann met Cy to"] * EXAMPLES}
    return effects.assemble(
        value,
        clean,
        -clean,
        axes={"layer": range(LAYERS), "head": range(4), "position": ["S2", "END"]},
        metrics=["logit_diff"],
        coords=coords,
        attrs={
            "patching": "denoising",
            "noise_floor": {"logit_diff": 1e-6},
            "engine_semantics": 1,
            "spec": "heads",
            "model": "other",
            "task": "ioi",
            "site": "z",
        },
    )


def graph(**coords):
    """Four edges of a network of two layers; edge i takes i + 1 away."""
    ends = [("embed", "L0H0.q"), ("L0H0", "L1H1.k"), ("L0H0", "logits"), ("L1H1", "logits")]
    sender, receiver = [(-1, -1), (0, 0), (0, 0), (1, 1)], [(0, 0), (1, 1), (-1, -1), (-1, -1)]
    told = {
        "edge": [f"{a} → {b}" for a, b in ends],
        "sender": [a for a, _ in ends],
        "receiver": [b for _, b in ends],
        "slot": ["q", "k", "", ""],
    }
    for word, side in (("sender", sender), ("receiver", receiver)):
        told |= {f"{word}_layer": [layer for layer, _ in side], f"{word}_head": [head for _, head in side]}
    clean = np.linspace(9, 10, EXAMPLES, dtype="float32")[None]
    return effects.assemble(
        clean[:, None] - np.arange(1, 5, dtype="float32")[:, None],
        clean,
        clean - 10,
        axes={"cell": range(4)},
        metrics=["logit_diff"],
        coords={word: ("cell", values) for word, values in told.items()} | coords,
        attrs={
            "patching": "noising",
            "noise_floor": {"logit_diff": 1e-6},
            "engine_semantics": 1,
            "spec": f"graph {sorted(coords)}",
            "model": "formula",
            "task": "ioi",
            "site": "edges",
        },
    )


@pytest.fixture
def make():
    """Results: ``make(scale, seed=…)``, ``make.heads()``, ``make.graph()``, and ``make.share(layer, position)`` of a cell."""
    sweep.heads, sweep.graph, sweep.share = heads, graph, share
    return sweep


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A store, and the ids of its runs by name."""
    store = Store(tmp_path_factory.mktemp("app") / "runs")
    half = sweep(0.5)
    runs = {
        "stream": store.save(sweep(made_at="2026-03-01T10:00:00+00:00"), name="stream", tags=["paper", "first"]),
        "half": store.save(half, name="half", tags=["paper"]),
        "others": store.save(sweep(seed=7, made_at="2026-01-05T10:00:00+00:00"), name="others"),
        "heads": store.save(heads(), name="heads"),
        "graph": store.save(graph(), name="graph"),
        "families": store.save(xr.DataTree.from_dict({"stream": sweep(0.25), "heads": heads()}), name="families"),
        "<script>": store.save(sweep(0.1), name="<script>alert(1)<,script>"),
    }
    return store, {name: run.id for name, run in runs.items()}


@pytest.fixture
def library(saved):
    return Library(saved[0])


@pytest.fixture
def ids(saved):
    return saved[1]


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Headless Chromium that keeps downloads in ``driver.downloads``; without one, ``INTERP_REQUIRE_BROWSER=1`` fails."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    steering = shutil.which("chromedriver")
    if browser is None or steering is None:
        lacking = "Chromium" if browser is None else "chromedriver"
        why = f"no {lacking} is installed: apt-get install chromium chromium-driver"
        if os.environ.get("INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    quiet = ["--no-first-run", "--disable-sync", "--disable-background-networking", "--disable-component-update"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1440,1700", *quiet):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder), "download.prompt_for_download": False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(steering))
    found.downloads = folder
    yield found
    found.quit()
