"""The doctor on a diffusion pipeline: what is asked of the whole, what of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from interp.doctor import architectures
from interp.doctor.examine import examine
from interp.doctor.generation import of_parts
from interp.doctor.laws import LAWS
from interp.doctor.patient import LOGITS, moments
from interp.doctor.verdict import Verdict, passed
from interp.models import Model
from interp.models.taps import Tap
from interp.sites import Site

pytest.importorskip("diffusers")
WHOLE = [law for law in LAWS if law.name in ("sites", "repeat", "own_value", "untouched")]


@pytest.fixture
def pipeline() -> Iterator[Model]:
    model = architectures.loaded("stable-diffusion")
    whole = model.anatomy
    yield model
    model.anatomy = whole


def test_every_call_and_half_of_every_site(pipeline: Model) -> None:
    found = moments(pipeline)
    assert [repr(site) for site in found if site.at(call=None, half=None) == Site("z", layer=3)] == [
        "L3.z#0u", "L3.z#0c", "L3.z#1u", "L3.z#1c",
    ]  # fmt: skip
    assert [repr(site) for site in found if site.name == "pos_embed"] == ["text:pos_embed#0", "text:pos_embed#1"]
    report = examine(pipeline, WHOLE)
    assert report.failed == report.refused == ()
    assert report["own_value"].what == "6 cases, none deviates", "two calls of the text encoder, two steps in two halves"


def test_a_site_that_is_not_of_every_example_fails(pipeline: Model) -> None:
    """One tensor of positions for all examples, read as if each had its own."""
    site = Site("pos_embed", stream="text")
    tap = Tap(pipeline.taps(site).path, "output")
    pipeline.anatomy = replace(pipeline.anatomy, taps={**pipeline.anatomy.taps, site: tap})
    verdict = examine(pipeline, WHOLE)["sites"]
    assert verdict.status == "failed"
    assert verdict.what == "text:pos_embed#0 (example, position, d_model) has the shape (1, 6, 32)"


def test_a_site_that_does_not_bear_its_own_value_is_named(pipeline: Model) -> None:
    """What is read there is not what was written."""
    site = Site("mlp_out", layer=3)

    class Shifted:
        def read(self, seen: torch.Tensor, call: object) -> torch.Tensor:
            return seen + 1

        def put(self, seen: torch.Tensor, new: torch.Tensor, call: object) -> torch.Tensor:
            return new

    tap = replace(pipeline.taps(site), layout=Shifted())
    taps = pipeline.anatomy.taps
    few = {one: taps[one] for one in taps if one.name in ("resid_post", "mlp_pre")}  # each is run by itself once one deviates
    pipeline.anatomy = replace(pipeline.anatomy, taps=few | {site: tap, LOGITS: pipeline.taps(LOGITS)})
    verdict = examine(pipeline, WHOLE)["own_value"]
    assert verdict.status == "failed"
    named = verdict.what.removesuffix(" and 1 more").split("; ")
    assert len(named) == 3, "and one more: two steps in two halves, and nothing else"
    assert all(what.startswith("writing L3.mlp_out#") for what in named)


def test_the_verdict_on_parts() -> None:
    good, bad, none = (
        passed("heads", "2 cases", 0.1, 0.2),
        Verdict("heads", "failed", "z", 0.5, 0.2),
        Verdict("heads", "refused", "why"),
    )
    both = of_parts("heads", {"unet": good, "text": none})
    assert (both.status, both.what, both.deviation, both.untested) == ("passed", "unet: 2 cases", 0.1, {"text": "why"})
    assert of_parts("heads", {"unet": good, "text": bad}) == Verdict("heads", "failed", "text: z", 0.5, 0.2)
    assert of_parts("heads", {"unet": none, "text": none}) == Verdict("heads", "refused", "why")
