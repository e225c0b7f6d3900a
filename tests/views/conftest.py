"""Results made up by a formula, so that a figure's numbers are known, and a browser to look at pages with."""

import shutil
import subprocess

import numpy as np
import pytest

from interp import effects

WORDS = ["<|endoftext|>", "When", " Mary", " and", " John", ",", " John", " gave", " it", " to"]


def made_up(
    layers=4,
    size=10,
    axis="position",
    *,
    patching="denoising",
    metric="logit_diff",
    examples=8,
    templates=4,
    tokens=True,
    **changes,
):
    """Layer l restores (l + 1)/layers at the last place, nothing at place 0 by rule, and −0.1 everywhere else."""
    clean = np.linspace(2, 4, examples, dtype="float32")[None]
    corrupt = -clean
    base, source = (corrupt, clean) if patching == "denoising" else (clean, corrupt)
    share = np.full((layers, size), -0.1, "float32")
    share[:, 0] = 0
    share[:, -1] = (np.arange(layers) + 1) / layers
    coords = {"template": [f"t{i % templates}" for i in range(examples)]}
    if axis == "position" and tokens:
        table = np.array([[WORDS[i % len(WORDS)]] * examples for i in range(size)], object)
        table[2, ::2] = " Anna"
        other = table.copy()
        other[6:7] = " Mary"
        coords |= {"clean_token": table, "corrupted_token": other}
    arguments = {
        "value": base[:, None, None] + share[None, :, :, None] * (source - base)[:, None, None],
        "clean": clean,
        "corrupt": corrupt,
        "axes": {"layer": range(layers), axis: range(size)},
        "metrics": [metric],
        "by_rule": np.broadcast_to((np.arange(size) == 0)[None, :, None], (layers, size, examples)),
        "coords": coords,
        "attrs": {
            "patching": patching,
            "noise_floor": {metric: 1e-4},
            "engine_semantics": 1,
            "spec": {},
            "model": "tiny <model>",
            "task": "ioi",
            "site": "resid_pre" if axis == "position" else "z",
            "source": "clean" if patching == "denoising" else "corrupted",
        },
    }
    return effects.assemble(**(arguments | changes))


@pytest.fixture
def make():
    return made_up


@pytest.fixture
def browse(tmp_path):
    """The page as a browser without a network sees it, after its scripts ran."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed: apt-get install chromium")
    still = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    still += ["--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]

    def look(page, *more):
        command = [browser, *still, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", *more]
        done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    return look


def edges_made_up(layers=2, heads=3, shared=1, *, mlps=True, examples=8, share=None):
    """Every edge of a small model; each does ``share(i, sender, receiver)`` of the damage, a little more in some examples."""
    senders, edges = [("embed", -1, -1)], []
    for layer in range(layers):
        here = [(f"L{layer}H{head}", layer, head) for head in range(heads)]
        for slot, many in (("q", heads), ("k", heads // shared), ("v", heads // shared)):
            serves = 1 if slot == "q" else shared
            edges += [(s, (f"L{layer}H{h}.{slot}", layer, h), slot, serves) for h in range(many) for s in senders]
        if mlps:
            edges += [(s, (f"m{layer}", layer, -1), "", 0) for s in senders + here]
        senders += here + ([(f"m{layer}", layer, -1)] if mlps else [])
    edges += [(s, ("logits", -1, -1), "", 0) for s in senders]
    share = share or (lambda i, sender, receiver: (-1) ** i * (i + 1) / 200)
    part = np.array([share(i, s[0], r[0]) for i, (s, r, _, _) in enumerate(edges)], "float32")
    clean = np.linspace(2, 4, examples, dtype="float32")[None]
    wobble = 1 + 0.1 * np.cos(np.arange(examples))
    wobble = (wobble * clean.sum() / (wobble * clean).sum()).astype("float32")  # the ratio of means is the share itself
    coords = {
        "edge": [f"{s[0]} → {r[0]}" for s, r, _, _ in edges],
        "slot": [slot for *_, slot, _ in edges],
        "receiver_heads": [serves for *_, serves in edges],
    }
    for place, end in enumerate(("sender", "receiver")):
        for column, word in enumerate(("", "_layer", "_head")):
            coords[f"{end}{word}"] = [edge[place][column] for edge in edges]
    return effects.assemble(
        value=clean[:, None] - part[None, :, None] * wobble * 2 * clean[:, None],
        clean=clean,
        corrupt=-clean,
        axes={"cell": range(len(edges))},
        metrics=["logit_diff"],
        coords={name: ("cell", values) for name, values in coords.items()}
        | {"template": [f"t{i % 4}" for i in range(examples)]},
        attrs={
            "patching": "noising",
            "noise_floor": {"logit_diff": 1e-4},
            "engine_semantics": 1,
            "spec": {},
            "model": "tiny <model>",
            "task": "ioi",
            "site": "edges",
            "source": "corrupted run",
        },
    )


@pytest.fixture
def make_edges():
    return edges_made_up
