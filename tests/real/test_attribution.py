"""Attribution patching on a real pretrained model: all heads of SmolLM2-135M-Instruct on indirect-object identification."""

from __future__ import annotations

import interp
from interp import effects
from interp.methods.localise.atp_star import atp_star
from interp.methods.localise.verification import verify


def test_first_order_agrees_with_patching_over_all_heads(loaded_smollm2: interp.Model) -> None:
    """Measured over 270 heads on 8 pairs: Pearson 0.92 noising and 0.87 denoising, Spearman 0.93 and 0.95, same sign 96%."""
    model = loaded_smollm2
    pairs = interp.tasks.ioi(2, seed=0, tokenizer=model.tokenizer)
    where = interp.grid("z", layer=..., head=...)
    estimated = interp.attribute(model, pairs, where, patching="noising")
    found = verify(model, pairs, where, estimated, top="all")
    print(found)
    assert found.cells == 270
    assert found.verified.pearson > 0.75
    assert found.verified.spearman > 0.8
    assert found.verified.same_sign > 0.85 * found.verified.signed


def test_query_and_key_fix_is_nearer_to_patching(loaded_smollm2: interp.Model) -> None:
    """Measured on 8 pairs, noising: Pearson of queries 0.73 without and 0.87 with the fix, of keys 0.96 and 1.00."""
    model = loaded_smollm2
    pairs = interp.tasks.ioi(2, seed=0, tokenizer=model.tokenizer)
    where = interp.grid("k", layer=[10, 14, 18, 22, 26], head=...)
    exact = effects.effect(interp.patch(model, pairs, where, patching="noising"))
    plain, fixed = (
        abs(effects.effect(atp_star(model, pairs, where, patching="noising", method=method)) - exact).mean()
        for method in ("atp", "atp+qk")
    )
    print(float(plain), float(fixed))
    assert fixed < 0.7 * plain
