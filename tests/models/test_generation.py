"""Forward passes of a generation: which columns each carries, and that nothing is written or kept out of place."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from interp.doctor import architectures
from interp.errors import GenerationError, PositionError, ShapeMismatchError, SiteNotFiredError
from interp.models import Model, Places, load
from interp.models.generation import configured, continued
from interp.models.stepping import Stepping, Window
from interp.sites import Positions, Site

Z = Site("z", layer=1)


@cache
def model(kind: str = "mistral") -> Model:
    return load(architectures.build(kind), name=kind)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 5), (5, 6), (6, 7), (7, 8)]),
        ({"use_cache": False}, [(0, 5), (0, 6), (0, 7), (0, 8)]),
        ({"prefill_chunk_size": 2}, [(0, 2), (2, 4), (4, 5), (5, 6), (6, 7), (7, 8)]),
    ],
)
def test_passes_know_what_they_carry(options: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    """And everything that was fed is kept in one tensor, the pattern over all columns: 0 behind a window of 4, and ahead."""
    tested, seen = model(), []
    config = configured(tested, max_new_tokens=4, min_new_tokens=4, **options)
    pattern = Site("pattern", layer=2)

    def writes(window: Window) -> dict[Site, Any]:
        def write(h: torch.Tensor) -> torch.Tensor:
            assert h.shape[2] == window.stop - window.start
            assert h.shape[3] == window.stop
            return h

        seen.append(window)
        return {pattern: write} if window.stop else {}

    tokens = tested.encode([(5, 6, 7, 8, 9)])
    made = continued(tested, tokens, config, reads=[Z, pattern], changed=[pattern], writes=writes)
    assert list(made.windows) == [Window(*window) for window in expected] == seen[1:]
    assert made.found[Z].shape[:2] == (1, 8)
    found = made.found[pattern][0]
    column = torch.arange(8)
    allowed = (column[None] <= column[:, None]) & (column[:, None] - column[None] < 4)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 8))
    assert torch.equal(found > 0, allowed.expand(4, -1, -1))


def test_what_does_not_add_up_is_not_returned() -> None:
    """A cache that holds more than was carried, a mask of another width, a forward that is never called."""
    tested = model()
    module, taps, ids = tested.module, {Z: tested.taps(Z)}, torch.tensor([[5, 6, 7]])
    filled = DynamicCache(config=module.config)
    with torch.no_grad():
        module(ids, past_key_values=filled, use_cache=True)
        with pytest.raises(GenerationError, match="holds 3 positions, but 0 were carried"), Stepping(module, taps, "input_ids"):
            module(input_ids=ids, past_key_values=filled, use_cache=True)
        with pytest.raises(GenerationError, match="0 to 2, but its mask has 5"), Stepping(module, taps, "input_ids"):
            module(input_ids=ids, attention_mask=torch.ones(1, 5))
        with Stepping(module, taps, "input_ids"):
            module(input_ids=ids)
            with pytest.raises(GenerationError, match="2 positions after 3, without"):
                module(input_ids=ids[:, 1:])
        with pytest.raises(SiteNotFiredError, match="never called"), Stepping(module, taps, "input_ids", reads=[Z]):
            pass
        before = module.register_forward_pre_hook(lambda m, args, kwargs: m.model(ids) and None, with_kwargs=True)
        try:
            with pytest.raises(SiteNotFiredError, match="fired 2 times in"), Stepping(module, taps, "input_ids", reads=[Z]):
                module(input_ids=ids)
        finally:
            before.remove()
        with pytest.raises(SiteNotFiredError, match="fired 1 times outside a"):
            encoded_first(tested, ids)
        never = Site.parse("model.layers:output")
        with (
            pytest.raises(SiteNotFiredError, match="fired 0 times in"),
            Stepping(module, {never: tested.taps(never)}, "input_ids", reads=[never], whole=[never]),
        ):
            module(input_ids=ids)
        logits = Site("logits")
        with (
            pytest.raises(ShapeMismatchError, match="holds 1 positions in a pass that carries 3"),
            Stepping(module, {logits: tested.taps(logits)}, "input_ids", reads=[logits]),
        ):
            module(input_ids=ids, logits_to_keep=1)


def encoded_first(tested: Model, ids: torch.Tensor) -> None:
    """A main stream that runs before the module's forward does."""
    with Stepping(tested.module, {Z: tested.taps(Z)}, "input_ids", reads=[Z]):
        tested.module.model(input_ids=ids)
        tested.module(input_ids=ids)


def test_positions_that_are_still_to_come() -> None:
    """Two prompts of 2 and 3 tokens, padded on the left, and 2 more to come: columns by hand."""
    mask = torch.tensor([[False, True, True], [True, True, True]])
    places = Places(mask=mask, roles={"last": torch.tensor([[2], [2]])})

    def columns(positions: Any, scope: Any = "all") -> list[list[int]]:
        return places.growing(2, scope).columns(Positions.parse(positions)).tolist()

    assert columns(None) == [[1, 2, 3, 4, -1], [0, 1, 2, 3, 4]]
    assert columns(None, "prompt") == [[1, 2, -1], [0, 1, 2]]
    assert columns(None, "new") == [[3, 4], [3, 4]]
    for scope in ("all", "prompt", "new"):
        assert columns((3, -1), scope) == [[4, 2], [3, 2]]
        assert columns("last", scope) == [[2], [2]]
    assert places.growing(2).prompt.mask.tolist() == mask.tolist()
    with pytest.raises(PositionError, match=r"4 can never be reached in example 0: its prompt has 2 tokens, .* is at 3"):
        columns(4)
    with pytest.raises(PositionError, match="−2 to −1"):
        columns(-3)
