"""Every architecture, built tiny: which sites it has, that it keeps every law that can be tested on it, and its README row."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.doctor import LAWS, Report, architectures, markdown, readme
from interp.doctor.models import examine_architecture

README = Path(__file__).parents[2] / "README.md"
EVERYWHERE = {"resid_pre", "resid_post"}
ATTENTION = {"q", "k", "v", "scores", "pattern", "z", "result", "attn_out"}
SEQUENTIAL = EVERYWHERE | ATTENTION | {"resid_mid", "mlp_out", "mlp_pre", "mlp_post"}
GATED = SEQUENTIAL | {"mlp_up"}
PARALLEL = SEQUENTIAL - {"resid_mid"}
CROSS = {f"cross_{name}" for name in ("q", "k", "v", "scores", "pattern", "z", "result", "out")} | {"resid_cross"}
MIXED = {"routing", "expert_out"}
EXPERTS = SEQUENTIAL - {"mlp_pre", "mlp_post"} | MIXED
MIXER = EVERYWHERE | {"mixer_out", "mixer_post"}
BEFORE, BEHIND = {"ln1_scale", "ln2_scale"}, {"ln1_post_scale", "ln2_post_scale"}

EXPECTED: dict[str, dict[str, set[str]]] = {
    **{name: {"main": SEQUENTIAL} for name in ("gpt2", "gpt-neo", "opt", "bloom", "bert", "distilbert", "roberta")},
    **{name: {"main": SEQUENTIAL} for name in ("vit", "dinov2")},
    **{name: {"main": PARALLEL} for name in ("gpt-j", "gpt-neox", "phi", "falcon", "falcon-new")},
    **{name: {"main": GATED} for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")},
    **{name: {"main": GATED} for name in ("olmo2", "stablelm", "smollm3", "modernbert")},
    "mixtral": {"main": EXPERTS},
    "qwen3-moe": {"main": GATED | MIXED},
    "deepseek-v3": {"main": GATED | MIXED | {"latent", "k_rotary"}},
    "mamba": {"main": MIXER},
    "gpt-oss": {"main": EXPERTS},
    "jamba": {"main": GATED | MIXER | MIXED},
    "qwen3-next": {"main": (GATED | MIXER | MIXED) - {"q", "k", "v"}},  # a gate stands between pattern × v and what W_O reads
    "t5": {"main": GATED | CROSS, "encoder": GATED},
    "bart": {"main": SEQUENTIAL | CROSS, "encoder": SEQUENTIAL},
    "whisper": {"main": SEQUENTIAL | CROSS, "encoder": SEQUENTIAL},
    "resnet": {"main": EVERYWHERE},
    "swin": {"main": SEQUENTIAL},  # but for the stream, of the one block whose window is the whole image
    "clip": {"text": SEQUENTIAL, "vision": SEQUENTIAL},
    "siglip": {"text": SEQUENTIAL, "vision": SEQUENTIAL},
    "blip": {"main": SEQUENTIAL | CROSS, "text": SEQUENTIAL | CROSS, "vision": SEQUENTIAL},
    "llava": {"main": GATED, "vision": SEQUENTIAL},
    "stable-diffusion": {"main": GATED | CROSS, "text": SEQUENTIAL},
    "qwen2-vl": {"main": GATED, "vision": SEQUENTIAL - {"q", "k", "v", "scores", "pattern"}},
}
"""Components that some layer of each stream has, embeddings, logits and the scales of norms left out."""

BEHIND_SUMS: set[str] = set()
SCALES: dict[str, set[str]] = {
    "gpt-j": {"ln1_scale"},  # attention and MLP read one norm
    "phi": {"ln1_scale"},
    "falcon": {"ln1_scale"},
    "bert": BEHIND_SUMS,
    "distilbert": BEHIND_SUMS,
    "roberta": BEHIND_SUMS,
    "bart": BEHIND_SUMS,
    "blip": BEHIND_SUMS,
    "resnet": set(),  # its norms are of channels
    "gemma2": BEFORE | BEHIND,
    "gemma3": BEFORE | BEHIND,
    "olmo2": BEHIND,
    "mamba": {"ln1_scale"},
}
"""Scales of norms that some layer has, where they are not those before attention and MLP; BLIP's vision tower has these."""

VALUE_BIASES = {
    *(
        "gpt2",
        "gpt-neox",
        "opt",
        "bloom",
        "qwen2",
        "phi",
        "bert",
        "distilbert",
        "roberta",
        "bart",
        "whisper",
        "vit",
        "dinov2",
        "swin",
    ),
    *("clip", "siglip", "blip", "llava", "qwen2-vl", "dit", "stable-diffusion"),
}
ROTATED = {
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe", "gemma"),
    *("phi", "phi3", "falcon", "falcon-new", "stablelm", "smollm3", "deepseek-v3", "mamba", "jamba", "qwen3-next", "t5"),
    *("whisper", "clip", "siglip"),
}
"""Norms stand before what reads them (their gains can be folded), and what enters the stream is known."""
ALL = set(architectures.NAMES)
NO_ATTENTION = {"mamba", "resnet", "dcgan"}
UNTESTABLE: dict[str, set[str]] = {
    "stream": {"dcgan"},
    "writes": {"dcgan"},
    "heads": NO_ATTENTION,
    "experts": ALL - {"mixtral", "qwen3-moe", "deepseek-v3", "gpt-oss", "jamba", "qwen3-next"},
    "pattern": NO_ATTENTION,
    "head_gate": NO_ATTENTION,
    "other_run": {"dcgan", "unet"},
    "sweep": {"dcgan"},
    "fold_gains": {"bart", "resnet", "dit", "dcgan"},  # norms behind the sums, or without gains
    "fold_value_bias": ALL - VALUE_BIASES,
    "permute_heads": NO_ATTENTION | {"bloom", "qwen3-next"},  # alibi gives every head a slope of its own
    "rotate": ALL - ROTATED,
}
"""Which laws cannot be tested where."""


UNTESTED = {"qwen2-vl": {("pattern", "vision")}}
"""Streams that a law does not reach although it passed: Qwen2-VL's vision tower calls one softmax an image."""


@pytest.mark.parametrize("architecture", architectures.NAMES)
def test_it_has_its_sites_and_keeps_its_laws(architecture: str) -> None:
    """One examination and so one test, which several processes may share out.

    Every law holds; those that cannot be tested are these and no more, each with a reason.
    """
    if architecture not in architectures.examinable():
        pytest.skip(f"{architecture} needs {architectures.LIBRARIES[architecture]}")
    report = examine_architecture(architecture)
    assert markdown([report]).splitlines()[-1] in readme.written(README.read_text(encoding="utf-8")).splitlines()
    if architecture in EXPECTED:
        found = {stream: {name for name in names if not name.endswith("_scale")} for stream, names in sites(report).items()}
        assert found == EXPECTED[architecture]
        scales = {stream: names - found[stream] for stream, names in sites(report).items()}
        expected = SCALES.get(architecture, BEFORE)
        assert scales == {stream: BEFORE if stream == "vision" else expected for stream in scales}
    assert [verdict.spec() for verdict in report.verdicts if verdict.status == "failed"] == []
    assert set(report.refused) == {law for law, where in UNTESTABLE.items() if architecture in where}
    assert len(report.verdicts) == len(LAWS)
    for verdict in report.verdicts:
        assert verdict.what
        assert "\n" not in verdict.what
        assert (verdict.deviation is None) or verdict.deviation <= verdict.tolerance  # type: ignore[operator]
    passed = [report[law] for law in ("heads", "pattern", "writes", "head_gate") if law in report.passed]
    assert {(one.law, stream) for one in passed for stream in one.untested} == UNTESTED.get(architecture, set())


def sites(report: Report) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for site in report.sites:
        if site.layers:
            found.setdefault(site.stream, set()).add(site.name)
    return found


def test_an_architecture_that_needs_a_library_says_so() -> None:
    assert set(architectures.LIBRARIES) <= set(architectures.NAMES)
