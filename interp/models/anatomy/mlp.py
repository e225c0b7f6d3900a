"""What a block has beside attention: an MLP with its units, a mixture of experts with its routing, or a mixer.

    mlp_post = act(mlp_pre) · mlp_up,  mlp_out = W_out · mlp_post                              (gated; otherwise without mlp_up)

Structure alone proposes these; which half of a fused map is the gate, and that a mixture is linear in its routing, is held to
its law where it can be written (:mod:`interp.models.probe`).
"""

from __future__ import annotations

from interp.models.anatomy import roles
from interp.models.anatomy.evidence import Block, Evidence
from interp.models.anatomy.stacks import child
from interp.models.experts import Experts
from interp.models.layouts import Flat, Units
from interp.models.taps import Tap


def mixer(evidence: Evidence, block: Block) -> None:
    """Note what stands in attention's place in state-space and linear-attention blocks."""
    name = child(evidence.part(block.path), roles.MIXER)
    if name is None:
        return
    path = f"{block.path}.{name}"
    block.attention = block.attention or path
    out = evidence.beside(path, roles.W_O)
    if out is not None:
        block.taps["mixer_post"] = evidence.tap(out, "input", block)
        block.sizes["mixer_unit"] = evidence.width(out, "input")


def of_block(evidence: Evidence, block: Block) -> None:
    """Note where the units of a block's MLP are seen, or those of its experts, or why they are not."""
    part = evidence.part(block.path)
    name = child(part, roles.MLP)
    path = block.path if name is None else f"{block.path}.{name}"
    inner = evidence.part(path)
    out = child(inner, roles.W_OUT)
    if name is None and out is None:
        why = f"{block.path} has no MLP"
        block.absent |= dict.fromkeys(("mlp_out", "mlp_pre", "mlp_up", "mlp_post"), why)
        return
    block.mlp = path if name is not None else f"{path}.{out}"
    if out is None:
        experts = child(inner, roles.EXPERTS)
        why = f"{path} is a mixture of experts" if experts else f"no module of {path} is called {', '.join(roles.W_OUT)}"
        block.absent |= dict.fromkeys(("mlp_pre", "mlp_up", "mlp_post"), why)
        if experts is not None:
            _experts(evidence, block, f"{path}.{experts}")
        return
    block.w_out = f"{path}.{out}"
    units = evidence.width(block.w_out, "input")
    block.taps["mlp_post"], block.sizes["unit"] = evidence.tap(block.w_out, "input", block), units
    gate, up, both, into = (child(inner, names) for names in (roles.GATE, roles.UP, roles.GATE_AND_UP, roles.W_IN))
    if gate and up:
        block.taps |= {
            "mlp_pre": evidence.tap(f"{path}.{gate}", "output", block),
            "mlp_up": evidence.tap(f"{path}.{up}", "output", block),
        }
    elif both and evidence.width(f"{path}.{both}") == 2 * units:
        # Which half is the gate is decided where it can be written (interp.models.probe).
        block.taps |= {
            "mlp_pre": evidence.tap(f"{path}.{both}", "output", block, Units(0, units)),
            "mlp_up": evidence.tap(f"{path}.{both}", "output", block, Units(units, 2 * units)),
        }
    elif into or both:
        block.taps["mlp_pre"] = evidence.tap(f"{path}.{into or both}", "output", block)
        block.absent["mlp_up"] = "its MLPs are not gated"
    else:
        block.absent |= dict.fromkeys(("mlp_pre", "mlp_up"), f"no module of {path} is called {', '.join(roles.W_IN)}")


def _experts(evidence: Evidence, block: Block, path: str) -> None:
    """A mixture of experts whose weights are tensors with the experts in front, called with tokens and their routing."""
    numbers = {len(parameter) for parameter in evidence.part(path).parameters() if parameter.ndim == 3}
    shapes = evidence.seen.tensors.get(path, ())
    if len(numbers) != 1 or len(shapes) < 3 or shapes[1] != shapes[2]:
        why = f"{path} is not called with tokens, experts and weights"
        block.absent |= dict.fromkeys(("routing", "expert_out"), why)
        return
    block.sizes["expert"] = n = numbers.pop()
    block.taps["expert_out"] = evidence.tap(path, "output", block, Experts(n))
    block.taps["routing"] = Tap(path, "routing", Flat(Units(0, n)), within=block.within)
