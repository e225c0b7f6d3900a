"""Soft gates on every head, several starts under three pulls: all together, against one run after another.

    python experiments/benchmarks/gating.py [--json] [--only plain-loop,interp-one-by-one,interp] [--repeats 3]

GPT-2 small's shape with random weights, 144 gates a run; 4 starts, each with pull 0, + and −, make 12 runs. Prompts of 15
tokens, batches of 8, few steps, Adam. Everybody begins with the same gates and runs the same batches, and must have the same
losses and penalties to 1e-4 at every step. Models are built and loaded outside the clock; caches are filled inside.

``plain-loop`` runs whole forward and backward passes with hooks, the model frozen and logits of the last token alone;
``interp-one-by-one`` calls the same function as ``interp``, once a run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import floor
from contestants.gating_loop import Loop
from contestants.gating_ours import InterpGates
from contestants.gating_question import Gating, random_gating
from contestants.networks import GPT2_SMALL, TINY_GPT2

NAMES = ("plain-loop", "interp-one-by-one", "interp")
TOLERANCE = 1e-4
"""Of losses, in nats, and of penalties."""


def question(quick: bool, device: str) -> Gating:
    if quick:
        return random_gating(replace(TINY_GPT2, device=device), prompts=8, tokens=8, batch=4, epochs=3, seeds=2)
    return random_gating(replace(GPT2_SMALL, device=device), prompts=16, tokens=15, batch=8, epochs=2, seeds=4)


def contestants(asked: Gating, names: tuple[str, ...]) -> common.Contestants:
    shape = asked.shape
    network = shape.network()
    made = {
        "plain-loop": lambda: Loop(shape, shape.network()),
        "interp-one-by-one": lambda: InterpGates(shape, network, together=False),
        "interp": lambda: InterpGates(shape, network),
    }
    return {name: made[name]() for name in NAMES if name in names}


def executed(contestant: Any, name: str, asked: Gating) -> int:
    """FLOPs as executed, counted apart from the timing, from one batch in one step and in two.

    Every step is the same work, and so is the base run of a batch; one run tells the others where they are apart.
    """
    apart = name != "interp"
    few = {"prompts": asked.prompts[: asked.batch], "answers": asked.answers[: asked.batch]}
    few |= {"seeds": asked.seeds[:1], "pulls": asked.pulls[:1]} if apart else {}
    once, twice = (contestant.run(replace(asked, epochs=epochs, **few), True).flops for epochs in (1, 2))
    step = twice - once
    return (len(asked.runs) if apart else 1) * (step * asked.steps + (once - step) * (asked.steps // asked.epochs))


def measured(asked: Gating, made: common.Contestants, given: Any) -> dict[str, Any]:
    """The case, timed."""
    shape, tokens = asked.shape, len(asked.prompts[0])
    rate = common.MatmulRate(960, shape.width, shape.mlp, shape.dtype, shape.device)
    name = f"head gating, {len(asked.seeds)} starts × pulls {', '.join(map(str, asked.pulls))}, {shape.name}"
    common.say(f"{name}: {len(asked.runs)} runs of {asked.steps} steps")
    sample = replace(asked, seeds=asked.seeds[-1:], epochs=1)
    least = len(asked.runs) * asked.steps * asked.batch * floor.gating_step(shape, tokens)
    case = common.Case(name, asked, sample, least, TOLERANCE)
    expected = next(iter(made.values())).run(sample).value
    common.race(case, expected, made, rate, given.repeats, lambda name: executed(made[name], name, asked))
    loss, penalty = next(iter(case.runs.values()))[0].value
    by_epoch = loss.unflatten(-1, (asked.epochs, -1)).mean((0, -1))
    case.notes = {
        "about": f"{shape.layers * shape.heads} gates a run, {len(asked.prompts)} prompts of {tokens} tokens, batches of "
        f"{asked.batch}, {asked.steps} steps, Adam at {asked.lr}; mean loss {by_epoch[0]:.4f} in the first epoch, "
        f"{by_epoch[-1]:.4f} in the last; {given.threads} CPU thread(s), {shape.dtype}, {shape.device}",
        "runs": [{"seed": seed, "pull": pull} for seed, pull in asked.runs],
        "loss": loss.tolist(),
        "penalty": penalty.tolist(),
    }
    return common.report(case, rate, common.machine(given.threads, given.device))


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    asked = question(given.quick, given.device)
    results = []
    with common.quiet():
        made = contestants(asked, given.only or NAMES)
        if given.case in "head gating":
            results.append(measured(asked, made, given))
            common.say(common.table(results[-1]) + "\n")
        for contestant in made.values():
            contestant.close()
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
