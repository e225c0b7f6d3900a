"""Which of the proposed tensors plays a role: the one of which the law of the role is true, in numbers of one forward pass.

    stream      resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post      (a norm may follow either sum)
    parallel    resid_pre + attn_out + mlp_out = resid_post
    heads       pattern × v = z

Names propose (:mod:`interp.models.anatomy.roles`), laws decide: those of attention, of the MLP, of the stream's sums and of the
norms, each in a module of its own beside this one. Where no candidate obeys, the site is absent and says by how much the
nearest one missed.
"""

from __future__ import annotations

from interp.models.anatomy import attention, mlp, norms, roles
from interp.models.anatomy.evidence import Block, Evidence
from interp.models.anatomy.sums import Sums


def block(evidence: Evidence, path: str) -> Block:
    """Everything that can be proven of one block."""
    found = Block(path)
    pre, post = evidence.seen.input(path), evidence.seen.output(path)
    if pre is None or post is None:
        calls = len(evidence.seen.inputs[path])
        why = f"is called {calls} times in one pass" if calls > 1 else "is not called with a tensor, or gives none"
        found.absent = dict.fromkeys(("resid_pre", "resid_post"), f"{path} {why}")
        return found
    found.within = path if len(pre) == evidence.batch else ""
    found.taps |= {name: evidence.tap(path, side, found) for name, side in (("resid_pre", "input"), ("resid_post", "output"))}
    if pre.ndim == 4:  # a feature map: no parts are known of its blocks
        found.sizes |= _widths(pre.shape[1], post.shape[1])
        return found
    found.sizes |= _widths(pre.shape[-1], post.shape[-1])
    attention.of_block(evidence, found, roles.ATTENTION, "")
    attention.of_block(evidence, found, roles.CROSS, "cross_")
    mlp.mixer(evidence, found)
    mlp.of_block(evidence, found)
    Sums(evidence, found, pre, post).decide()
    norms.of_block(evidence, found)
    return found


def _widths(before: int, after: int) -> dict[str, int]:
    return {"d_model": after} | ({"d_model_before": before} if before != after else {})
