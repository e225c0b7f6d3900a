"""Norms are what their scales say: what they take and give is of the stream, and with another σ they give what their form says.

gain · c / σ + bias,  c = the input, less its mean in a LayerNorm                         (:class:`interp.models.norms.Norm`)
"""

from __future__ import annotations

from collections.abc import Iterator

from interp.models.norms import Norm
from interp.models.probe.runs import Outcome, Runs
from interp.sites import Site


def outcomes(runs: Runs, site: Site) -> Iterator[Outcome]:
    """A norm takes and gives what it should, and with another run's scale what its form makes of its input and that."""
    if site not in runs.found:
        return
    x, out = (Site(side, path=runs.norm(site)) for side in ("input", "output"))
    given = runs.found[out]
    taken = runs.found[x].reshape(given.shape)
    norm = runs.model.module.get_submodule(out.path or "")
    norm = getattr(norm, "original_component", norm)  # of a bridge
    if any(parameter.is_meta for parameter in norm.parameters()):  # its weights are elsewhere
        return
    form = Norm.of(norm, taken, given, runs.tolerance)
    if isinstance(form, str):
        yield Outcome("write", f"{site!r} is of a norm of a known form ({form})", (site,), float("inf"), runs.tolerance)
        return
    yield runs.equal("write", runs.found[site], form.scale(taken), f"{site!r} is what the norm divides by", (site,))
    for what, passed, stream in (("takes", taken, _taken(runs, site)), ("gives", given, _given(runs, site))):
        if stream in runs.found:
            law = f"what the norm of {site!r} {what} is {stream!r}"
            yield runs.equal("write", passed, runs.found[stream].reshape(passed.shape), law, (site,))
    found = runs.under(runs.exchanged(site), out)
    expected = form.apply(norm, taken, runs.others[site]).to(found.dtype)
    yield runs.equal("write", found, expected, f"another run's {site!r} gives gain · c / σ + bias with that σ", (site,))


def _taken(runs: Runs, site: Site) -> Site | None:
    """The stream that a norm takes, of those before a part."""
    if site.name == "ln_final_scale":
        return runs.site("resid_post", runs.last)
    names = {"ln1_scale": "resid_pre", "ln2_scale": "resid_mid"}
    parallel = runs.stream.order.get(site.layer or 0) == "parallel"
    return runs.site("resid_pre" if parallel else names[site.name], site.layer) if site.name in names else None


def _given(runs: Runs, site: Site) -> Site | None:
    """What a norm behind a part gives."""
    names = {"ln1_post_scale": "attn_out", "ln2_post_scale": "mlp_out"}
    return runs.site(names[site.name], site.layer) if site.name in names else None
