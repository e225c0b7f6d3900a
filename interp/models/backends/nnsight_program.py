"""One forward pass as nnsight runs it: what is done at each place, here or on a server.

    >>> kept = traced(root, {"input_ids": ids}, places, visits)                               # doctest: +SKIP
    >>> kept["found"][0].shape                                                               # doctest: +SKIP
    torch.Size([3, 6, 32])

Each place is a block of its own, so that places need no order: nnsight lets it wait until the model gets there. What is in the
trace travels to a server as source and plain data, without this package, and only tensors and numbers come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

from nnsight import save
from torch import Tensor

from interp.models.calls import Call, first_tensor, output_tensor, with_first, with_output
from interp.models.hooks import Hooks
from interp.sites import Site


@dataclass
class Place:
    """An event on a module at which sites are seen."""

    envoy: Any
    """nnsight's wrapper of the module."""
    event: str
    """``"input"``, ``"output"``, ``"routing"`` or ``"attention"``: around the softmax that the module calls."""
    sites: list[Site]
    within: dict[str, Any]
    """Modules whose input has the examples in front, by path."""


def traced(
    root: Any, inputs: Mapping[str, Any], places: Sequence[Place], visits: Hooks, runner: Any = None
) -> dict[str, list[Any]]:
    """Run the model once; ``found`` holds what is read, and ``fired`` how often each location was reached.

    Args:
        root: nnsight's wrapper of the model.
        runner: nnsight's backend, which runs the block elsewhere; None runs it here.
    """
    kept: dict[str, list[Any]]
    with root.trace(backend=runner) as tracer:
        began = dict(root.interleaver.counts)
        reached: list[str] = []
        for place in places:
            with tracer.invoke():
                visit(place, visits, reached)
        with tracer.invoke(**inputs):
            ended = root.output
            kept = save(result(visits, reached, began, root, ended))
    return kept


def visit(place: Place, visits: Hooks, reached: list[str]) -> None:
    """Wait until the model is at a place; write, then read, the sites there."""
    for path, envoy in place.within.items():
        visits._examples[path] = len(first_tensor(*envoy.inputs))
    envoy = place.envoy
    if place.event == "attention":
        _around(softmax(envoy), Call(envoy._module, (), {}), place.sites, visits, reached)
        return
    args, kwargs = envoy.inputs
    # Its own forward is a handoff to the trace, which cannot be entered from inside one.
    call = Call(envoy._module, args, kwargs, forward=MethodType(type(envoy._module).forward, envoy._module))
    if place.event == "routing":
        routed = visits._reroute(place.sites, call)
        if routed is not None:
            envoy.inputs = routed
        reached.append(f"{envoy.path}.input")
        return
    if place.event == "input":
        seen = first_tensor(args, kwargs)
        new = visits.visit(place.sites, seen, call)
        if new is not seen:
            envoy.inputs = with_first(args, kwargs, new)
    else:
        output = envoy.output
        seen = output_tensor(output)
        new = visits.visit(place.sites, seen, call)
        if new is not seen:
            envoy.output = with_output(output, new)
    reached.append(f"{envoy.path}.{place.event}")


def _around(operation: Any, attention: Call, sites: Sequence[Site], visits: Hooks, reached: list[str]) -> None:
    """Scores are what the softmax takes, patterns what it gives."""
    by_event = {event: [s for s in sites if visits.taps[s].event == event] for event in ("scores", "pattern")}
    args, kwargs = operation.inputs
    scores = first_tensor(args, kwargs)
    new = visits.visit(by_event["scores"], scores, attention)
    if new is not scores:
        operation.inputs = with_first(args, kwargs, new)
    pattern: Tensor = operation.output
    new = visits.visit(by_event["pattern"], pattern, attention)
    if new is not pattern:
        operation.output = new
    reached.append(f"{operation.path}.output")


def softmax(envoy: Any) -> Any:
    """The one softmax that an attention module calls, in its own forward or in the function that it hands over to.

    Raises:
        LookupError: none is found there, or several.
    """
    source = envoy.source
    for _ in range(2):
        found = [name for name in source.names if "softmax" in name]
        if len(found) == 1:
            return source.node(found[0])
        calls = [name for name in source.names if name.rpartition("_")[0] in ("attention_interface", "self__attn")]
        if found or not calls:
            break
        source = source.node(calls[-1]).source  # the last of the name is the call, those before it are assignments
    raise LookupError(f"{len(found)} softmaxes are called in the source of {envoy.path}")


def result(visits: Hooks, reached: Sequence[str], began: Mapping[str, int], root: Any, ended: Any) -> dict[str, list[Any]]:
    """What travels back: the tensors that were read, and how often each location was reached in this pass."""
    counts, last = root.interleaver.counts, f"{root.path}.output"
    fired = [counts.get(location, 0) - began.get(location, 0) + (location == last) for location in reached]
    order = sorted(visits.reads, key=repr)
    return {"found": [visits.found.get(site) for site in order], "fired": fired, "reached": list(reached)}
