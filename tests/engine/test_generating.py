"""Text generated under interventions, against loops written by hand: whole forward passes on the growing text, no cache.

The first reference is one prompt at a time through the raw module, a plain torch hook on a block changing the same absolute
positions; the second, for sites inside a block, single passes of the library's backend, which the conformance suite proves. No
token ends a text early unless the test is about that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anything
import pytest
import sweeps
import tiny
import torch
from generation_by_hand import NEW, added, close, greedy, hooked, ids, model, prompts, rows, said, same, steered, write
from torch import Tensor

from interp import generate
from interp.errors import (
    GenerationError,
    PositionError,
    ShapeMismatchError,
)
from interp.interventions import Activation, Add, Apply, Change, Constant, Noise, Scale, mean
from interp.prompts import Pair, Prompt
from interp.sites import Site

BLOCKS = {
    "gpt2": "transformer.h.1",
    "llama": "model.layers.1",
    "mistral": "model.layers.1",  # a window of 4, shorter than every text here
    "gemma2": "model.layers.1",
    "bloom": "transformer.h.1",
    "mixtral": "model.layers.1",
    "deepseek-v3": "model.layers.1",
    "mamba": "backbone.layers.1",
    "gpt-oss": "model.layers.1",
    "jamba": "model.layers.1",
    "t5": "decoder.block.1",
    "bart": "model.decoder.layers.1",
    "whisper": "model.decoder.layers.1",
}
"""Where the second block is, by architecture."""
LONG = ("gpt2", "llama", "mistral", "gemma2", "bloom")


@pytest.mark.parametrize("kind", BLOCKS)
def test_cached_and_uncached_are_the_loop_by_hand(kind: str, seed: int) -> None:
    given, generator = prompts(kind, seed), torch.Generator().manual_seed(seed)
    vector = 9 * torch.randn(tiny.WIDTH, generator=generator, dtype=model(kind).dtype)
    lengths = [len(said(prompt)) for prompt in given]
    later = min(lengths) + NEW - 2  # inside new text, in both rows
    site = "L1.resid_post"

    def edit(positions: Any = None) -> Change:
        return Change(site, positions, Constant(vector), Add())

    calls: list[tuple[str, list[Any], list[Callable[[int, int], bool]]]] = [
        (
            "all",
            [None, edit(1), edit(-1), edit(later), edit()],
            [
                lambda p, n: False,
                lambda p, n: p == 1,
                lambda p, n: p == n - 1,
                lambda p, n: p == later,
                lambda p, n: True,
            ],
        ),
        ("prompt", [edit()], [lambda p, n: p < n]),
        ("new", [edit()], [lambda p, n: p >= n]),
    ]
    numbers = set()
    for scope, interventions, positions in calls:
        made = [write(kind, given, interventions, scope=scope, use_cache=kept, capture=[site]) for kept in (True, False)]
        for cell, where in enumerate(positions):
            for row, prompt in enumerate(given):
                n = lengths[row]
                run, seen = hooked(kind, BLOCKS[kind], added(lambda p, where=where, n=n: where(p, n), vector))  # type: ignore[misc]
                tokens, logprobs = greedy(prompt, run, NEW)
                if not tokens:
                    continue
                numbers.add(float(logprobs.sum()))
                for found in made:
                    assert rows(found, cell)[row] == tokens, (scope, cell, row)
                    close(kind, found.logprobs[cell, row], logprobs)
                    activation = found.activation(site)[cell, row, int(found.first[row]) :]
                    close(kind, activation, seen[-1][0])
    assert len(numbers) > 4, "the edits changed what was written, or how probable it was"


INSIDE = ("L1H2.z", "L1.mlp_post[3]", "L1.q", "L1.v", "L2.resid_pre", "L1H1.pattern", "L1H1.scores")


def tilted(h: Tensor, s: Tensor) -> Tensor:
    """Moves every value by an amount that depends on its column, so that a column out of place shows."""
    return h * torch.linspace(1.5, 2.5, 40, dtype=h.dtype)[: h.shape[-1]] if h.shape[-1] > 1 else h + 5


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("name", INSIDE)
def test_sites_inside_a_block(kind: str, name: str, seed: int) -> None:
    """Patterns behind a window are seen over all columns from the first on, whatever the cache has dropped."""
    tested, site = model(kind), Site.parse(name)
    (prompt,) = [Prompt(text) for text in ids(seed, 7)]
    change = Change(site, (2, 8, 9), Constant(0.0), Apply(tilted))
    made = [write(kind, [prompt], change, use_cache=kept, capture=[site.tensor]) for kept in (True, False)]

    def whole(h: Tensor) -> Tensor:
        h, axis = h.clone(), site.axes.index("position")
        for position in (2, 8, 9):
            if position < h.shape[axis]:
                at: list[Any] = [slice(None)] * h.ndim
                at[axis] = position
                for letter in ("head", "unit"):
                    if (index := getattr(site, letter)) is not None:
                        at[site.axes.index(letter)] = index
                old = h[tuple(at)]
                h[tuple(at)] = tilted(old[..., None], old)[..., 0] if site.unit is not None else tilted(old, old)
        return h

    def run(given: dict[str, Tensor]) -> Tensor:
        tokens = tested.encode([tuple(given["input_ids"][0].tolist())])
        with torch.no_grad(), tested.prepared([site]):
            found = tested.backend.run(tested.inputs(tokens), [Site("logits"), site.tensor], {site.tensor: whole})
        kept.append(found[site.tensor])
        return found[Site("logits")]

    kept: list[Tensor] = []
    tokens, logprobs = greedy(prompt, run, NEW)
    for found in made if tokens else ():
        assert rows(found, 0) == [tokens]
        close(kind, found.logprobs[0, 0], logprobs)
        got, expected = (
            h.clamp(min=-1e9) for h in (found.activation(site.tensor)[0], kept[-1])
        )  # what is masked, as much as it is
        close(kind, got, expected)
    assert not torch.equal(made[0].logprobs, write(kind, [prompt], None).logprobs)


def test_a_pattern_that_attends_to_all_there_is(seed: int) -> None:
    """A constant in every column: to a token of the prompt new ones never come, with the cache or without. What a cache has
    dropped behind a window cannot be attended to."""
    (prompt,) = [Prompt(text) for text in ids(seed, 6)]
    change = Change("L1H1.pattern", source=Constant(0.2))
    made = [write("gpt2", [prompt], change, use_cache=kept, capture=["L1.pattern"]) for kept in (True, False)]
    same(made[0], made[1], 0, 0)
    for site in ("L1H1.pattern", "L1H1.scores"):
        with pytest.raises(GenerationError, match="use_cache=False"):
            write("mistral", [prompt], Change(site, source=Constant(0.2)))
        write("mistral", [prompt], Change(site, source=Constant(0.2)), use_cache=False)
        write("mistral", [prompt], Change(site, edit=Scale(0.5)))
    for one in made:
        found = one.activation("L1H1.pattern")[0, 0]
        last = torch.arange(6 + NEW - 1).clamp(min=5)
        allowed = torch.arange(6 + NEW - 1)[None] <= last[:, None]
        torch.testing.assert_close(found, torch.where(allowed, 0.2, 0.0).to(found))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_doses_in_one_batch_are_doses_one_at_a_time(kind: str, seed: int) -> None:
    """Also a prompt alone is that prompt among longer ones; and a dose of 0 is the model as it is, to the last bit."""
    given, doses = [Prompt(text) for text in ids(seed, 4, 9, 6)], (0.0, 2.0, 5.0, 20.0)
    together = write(kind, given, [None, *map(steered, doses)])
    assert together.ids.shape == (5, 3, NEW)
    assert torch.equal(together.ids[0], together.ids[1])
    assert torch.equal(together.logprobs[0], together.logprobs[1])
    assert not torch.equal(together.ids[0], together.ids[4])
    for cell, dose in enumerate(doses, start=1):
        for row, prompt in enumerate(given):
            same(together, write(kind, [prompt], steered(dose)), cell, row)
    site = "L1.pattern" if kind == "gpt2" else "L1.z"  # others' eager attention makes NaN of padding in float64
    assert "gauge" in write("gpt2", given, Change("L1H2.z", source=Constant(0.0))).attrs
    few = write(kind, given, [None, *map(steered, doses)], rows=2, capture=[site])  # rows of one cell apart
    assert torch.equal(few.ids, together.ids)
    whole = write(kind, given, [None, *map(steered, doses)], capture=[site])
    torch.testing.assert_close(few.activation(site), whole.activation(site), equal_nan=True)


@pytest.mark.parametrize(
    ("scope", "kept", "expected"),
    [
        ("all", True, [5 + 8, *[2] * (NEW - 1)]),
        ("prompt", True, [5 + 8]),
        ("new", True, [2] * (NEW - 1)),
        ("all", False, [5 + 8 + 2 * i for i in range(NEW)]),
        ("prompt", False, [5 + 8] * NEW),
        ("new", False, [2 * i for i in range(1, NEW)]),
    ],
)
def test_scopes_fire_as_predicted(scope: Any, kept: bool, expected: list[int], seed: int) -> None:
    """How many tokens every pass changes, in two prompts of 5 and 8: padding never, the last new token never."""
    fired: list[int] = []

    def spy(h: Tensor, s: Tensor) -> Tensor:
        fired.append(len(h))
        return h

    change = Change("L1.resid_post", source=Constant(0.0), edit=Apply(spy))
    write("llama", prompts("llama", seed), change, scope=scope, use_cache=kept)
    assert fired == expected


def test_a_prompt_in_chunks_gives_the_same(seed: int) -> None:
    given, changes = prompts("gpt2", seed), [steered(5.0, positions=4), steered(5.0)]
    chunked = write("gpt2", given, changes, prefill_chunk_size=3, capture=["L1.z", "L1.scores"])
    whole = write("gpt2", given, changes, capture=["L1.z", "L1.scores"])
    assert torch.equal(chunked.ids, whole.ids)
    for site in ("L1.z", "L1.scores"):
        torch.testing.assert_close(chunked.activation(site), whole.activation(site), rtol=0, atol=1e-8, equal_nan=True)


def test_the_other_prompt_of_a_pair(seed: int) -> None:
    """Values of the other prompt, at a role and in a pattern: the block's output and the head's pattern, put there by hand."""
    clean, corrupted = ids(seed, 6, 6)
    role = {"subject": (2, 4)}
    pairs = [Pair(Prompt(clean, role), Prompt(corrupted, role))]
    module = model("gpt2").module
    theirs = sweeps.record(module, BLOCKS["gpt2"], clean)[0]

    def patched(h: Tensor) -> Tensor:
        h[0, 2:4] = theirs[2:4]
        return h

    tokens, logprobs = greedy(Prompt(corrupted), hooked("gpt2", BLOCKS["gpt2"], patched)[0], NEW)
    for kept in (True, False):
        made = write("gpt2", pairs, Change("L1.resid_post", "subject"), use_cache=kept)  # type: ignore[arg-type]
        close("gpt2", made.logprobs[0, 0], logprobs)
        assert rows(made, 0) == [tokens] or not tokens
    denoised = Change("L1H2.pattern", 5)
    made = [write("gpt2", pairs, denoised, use_cache=kept, capture=["L1.pattern"]) for kept in (True, False)]  # type: ignore[arg-type]
    own = write("gpt2", [Prompt(clean)], None, capture=["L1.pattern"]).activation("L1H2.pattern")[0, 0, 5, :6]
    for one in made:
        torch.testing.assert_close(one.activation("L1H2.pattern")[0, 0, 5, :6], own)
    same(made[0], made[1], 0, 0)
    noising = write("gpt2", pairs, None, patching="noising")  # type: ignore[arg-type]
    assert " from the clean prompt of 1 pair, scope " in repr(noising)
    assert " from the corrupted prompt of 1 pair, scope " in repr(made[0])
    same(noising, write("gpt2", [Prompt(clean)], None), 0, 0)


def test_sources_that_serve_new_tokens(seed: int) -> None:
    """A mean over positions, one token of another text, noise by position; but not a value a position."""
    given = prompts("gpt2", seed)
    everywhere = ("example", "position")
    for source in (mean("base", over=everywhere), Activation(ids(seed, 4)[0], positions=-1), Noise(2.0, seed=1)):
        change = Change("L1.resid_post", source=source, edit=Add())
        made = [write("gpt2", given, change, scope="new", use_cache=kept) for kept in (True, False)]
        for row in range(2):
            same(made[0], made[1], 0, row, 0, row)
        assert not torch.equal(made[0].logprobs, write("gpt2", given, None).logprobs)
    for source in (Activation("base"), Activation(ids(seed, 5)[0]), mean("base")):
        with pytest.raises((ShapeMismatchError, PositionError), match=r"scope='prompt'|prompt of the source has"):
            write("gpt2", given, Change("L1.resid_post", source=source))


@pytest.mark.parametrize("site", ["encoder:L1.resid_post", "encoder:L2H1.z", "L1.cross_v", "L1H2.cross_pattern", "L1.cross_z"])
def test_other_streams_are_edited_whole(site: str, seed: int) -> None:
    """An encoder runs once; keys and values of cross-attention are computed in the first pass and kept. Expected: one pass of
    the growing text after the other, everything anew."""
    tested, (prompt, _) = model("t5"), prompts("t5", seed)
    found = Site.parse(site)
    made = [
        write("t5", [prompt], Change(site, edit=Scale(-1.5)), use_cache=kept, capture=[site.replace("H2", "")])
        for kept in (True, False)
    ]
    axis = found.axes.index("head") if found.head is not None else None

    def scaled(h: Tensor) -> Tensor:
        gate = torch.full((h.shape[axis] if axis is not None else 1,), 1.0 if axis is not None else -1.5, dtype=h.dtype)
        if found.head is not None:
            gate[found.head] = -1.5
        return h * (gate if axis is None else gate.reshape([-1 if i == axis else 1 for i in range(h.ndim)]))

    def run(given: dict[str, Tensor]) -> Tensor:
        tokens = tested.encode([Prompt(prompt.text, target=tuple(given["decoder_input_ids"][0].tolist()))])
        with torch.no_grad(), tested.prepared([found]):
            return tested.backend.run(tested.inputs(tokens), [Site("logits")], {found.tensor: scaled})[Site("logits")]

    tokens, logprobs = greedy(prompt, run, NEW)
    for one in made:
        assert not tokens or rows(one, 0) == [tokens]
        close("t5", one.logprobs[0, 0], logprobs)
    same(made[0], made[1], 0, 0)
    assert not torch.equal(made[0].logprobs, write("t5", [prompt], None).logprobs)


@pytest.mark.parametrize("kind", ["llava", "qwen2-vl"])
def test_pictures_are_seen_once(kind: str, seed: int) -> None:
    """A head of the vision tower, before the first pass, and the picture's positions in the text, in it; alone and together."""
    tested = anything.model(kind)
    given = [pair.clean for pair in anything.pairs(tested, seed)]
    edits = [None, Change("vision:L1H1.z", edit=Scale()), Change("L1.resid_post", "image", Constant(0.0))]
    special = [0, *range(tiny.VOCAB - 4, tiny.VOCAB)]  # ends, and what stands where a picture is
    options: dict[str, Any] = {"max_new_tokens": 4, "suppress_tokens": special}
    made = [generate(tested, given, edits, use_cache=kept, capture=["vision:L1.z"], **options) for kept in (True, False)]
    for cell in range(3):
        for row in range(2):
            same(made[0], made[1], cell, row, cell, row)
            same(made[0], generate(tested, given[row], edits[cell], **options), cell, row)
    assert (made[0].activation("vision:L1H1.z")[1] == 0).all()
    assert len({float(total) for total in made[0].logprob[:, 0]}) == 3


def test_logits_and_modules_by_path(seed: int) -> None:
    given = prompts("gpt2", seed)
    by_path = write("gpt2", given, Change("transformer.h.1.mlp:output", edit=Scale(0.0)), capture=["lm_head:output"])
    by_role = write("gpt2", given, Change("L1.mlp_out", edit=Scale(0.0)), capture=["logits"])
    assert torch.equal(by_path.ids, by_role.ids)
    assert torch.equal(by_path.logprobs, by_role.logprobs)
    assert torch.equal(by_path.activation("lm_head:output").nan_to_num(), by_role.activation("logits").nan_to_num())
    first = write("gpt2", given, Change("transformer.h.1.mlp:output#0", edit=Scale(0.0)))  # its first call in every pass
    assert torch.equal(first.logprobs, by_role.logprobs)
    last = by_role.activation("logits")[:, :, 7:].float().log_softmax(-1).gather(-1, by_role.ids[..., None])[..., 0]
    torch.testing.assert_close(last, by_role.logprobs)
    seven = torch.nn.functional.one_hot(torch.tensor(7), tiny.VOCAB) * 50.0
    forced = write("gpt2", given, Change("logits", source=Constant(seven), edit=Add()), scope="new")
    assert torch.equal(forced.ids[0, :, 0], write("gpt2", given, None).ids[0, :, 0]), "said by the prompt's last token"
    assert (forced.ids[0, :, 1:] == 7).all()
