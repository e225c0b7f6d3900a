"""Texts written beside the unedited model, and on what is given: against passes of the raw module, one text at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sweeps
import tiny
import torch
import xarray as xr
from generation_by_hand import NEW, ids, model, prompts, said, share, steered, write
from texts_by_hand import BLOCKS, kl, logprobs, says, steered_run

from interp.engine import Generated, generate, score
from interp.errors import GenerationError, HeadOutOfRangeError, OrderError, PositionError, ShapeMismatchError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale, doses
from interp.models.generation import configured, continued
from interp.prompts import Prompt

SITE = "L1.resid_post"
NEVER, ALWAYS = (lambda p, n: False), (lambda p, n: True)
CALLS: list[tuple[str, Any, Callable[[int, int], bool]]] = [
    ("all", None, ALWAYS),
    ("prompt", None, lambda p, n: p < n),
    ("new", None, lambda p, n: p >= n),
    ("all", 6, lambda p, n: p == 6),
    ("all", -2, lambda p, n: p == n - 2),
]


def near(kind: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits reach the loop in float32, whatever the model computes in, and here they are far from 0."""
    atol = max(share(kind, torch.float32), 1e-5) * (1 + float(expected.abs().max()))
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_same_text_under_the_unedited_model(kind: str, seed: int) -> None:
    """Log-probabilities of both models, both divergences and the perplexity, in every scope, two prompts of unequal length."""
    given = prompts(kind, seed)
    vector = 4 * torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(seed), dtype=model(kind).dtype)
    for scope, positions, chosen in CALLS:
        if isinstance(positions, int) and kind == "t5" and positions >= 0:
            positions, chosen = 4, lambda p, n: p == 4
        change = Change(SITE, positions, Constant(vector), Add())
        made = write(kind, given, [None, change], scope=scope, compare=True)
        assert float(made.kl[1].max()) > 1e-5
        for row, prompt in enumerate(given):
            for cell, where in enumerate((NEVER, chosen)):
                new = made.ids[cell, row].tolist()
                edited = says(prompt, new, steered_run(kind, where, vector, prompt))
                unedited = says(prompt, new, steered_run(kind, NEVER, vector, prompt))
                near(kind, made.logprobs[cell, row], logprobs(edited, new))
                near(kind, made.unedited_logprobs[cell, row], logprobs(unedited, new))
                near(kind, made.kl[cell, row], kl(edited, unedited))
                near(kind, made.reverse_kl[cell, row], kl(unedited, edited))
                torch.testing.assert_close(
                    made.perplexity[cell, row].log(), -made.unedited_logprobs[cell, row].mean(), rtol=1e-5, atol=1e-5
                )
    assert torch.equal(made.unedited_logprobs[0], made.logprobs[0]), "nothing runs beside what is not changed"
    assert float(made.kl[0].abs().max()) == float(made.reverse_kl[0].abs().max()) == 0


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mamba", "t5"])
def test_comparing_changes_nothing_and_a_strength_of_zero_is_nothing(kind: str, seed: int) -> None:
    """Tokens to the last one, log-probabilities and activations; the divergence at strength 0 is 0."""
    given, asked = prompts(kind, seed), doses(steered(1.0), [0, 3, 9])
    compared = write(kind, given, [None, *asked], compare=True, capture=[SITE])
    alone = write(kind, given, [None, *asked], capture=[SITE])
    assert torch.equal(compared.ids, alone.ids)
    torch.testing.assert_close(compared.logprobs, alone.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(compared.activation(SITE), alone.activation(SITE), equal_nan=True)
    assert torch.equal(compared.ids[0], compared.ids[1])
    torch.testing.assert_close(compared.logprobs[0], compared.logprobs[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(compared.unedited_logprobs[1], compared.logprobs[1], rtol=0, atol=1e-6)
    assert float(compared.kl[1].max()) < 1e-10
    assert float(compared.reverse_kl[1].max()) < 1e-10
    assert float(compared.kl[2:].min()) > 0


def test_batches_chunks_and_no_cache_give_the_same(seed: int) -> None:
    given, asked = [Prompt(text) for text in ids(seed, 5, 9, 7)], [None, *doses(steered(1.0), [0, 5])]
    whole = write("gpt2", given, asked, compare=True)
    for options in ({"rows": 1}, {"rows": 4}, {"use_cache": False}, {"prefill_chunk_size": 3}):
        other = write("gpt2", given, asked, compare=True, **options)
        assert torch.equal(other.ids, whole.ids)
        for name in ("logprobs", "unedited_logprobs", "kl", "reverse_kl"):
            torch.testing.assert_close(getattr(other, name), getattr(whole, name), rtol=0, atol=1e-5)


def test_only_what_is_changed_is_run_twice(seed: int) -> None:
    """Three interventions on two prompts: of the six rows, the four that are changed by more than what is given."""
    sizes: list[int] = []
    handle = model("gpt2").module.register_forward_pre_hook(
        lambda owner, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        write("gpt2", prompts("gpt2", seed), [None, steered(1.0), steered(2.0)], compare=True, given=steered(3.0))
    finally:
        handle.remove()
    assert sizes == [6 + 4] * NEW


def test_drawn_texts_that_end(seed: int) -> None:
    """NaN behind each end; the distributions are those before temperature, top-k and the like."""
    given = prompts("gpt2", seed)
    options: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "top_k": 60, "seed": seed, "eos_token_id": None}
    options |= {"num_return_sequences": 4, "max_new_tokens": 8, "compare": True}
    free = write("gpt2", given, [None, steered(4.0)], **options)
    often = int(free.ids[1].flatten().mode().values)
    made = write("gpt2", given, [None, steered(4.0)], **options | {"eos_token_id": often, "min_new_tokens": 0})
    ended = made.ids < 0
    assert bool(ended[1].any()), "some text ended early"
    for name in ("logprobs", "unedited_logprobs", "kl", "reverse_kl"):
        tensor, unended = getattr(made, name), getattr(free, name)
        assert torch.equal(tensor.isnan(), ended)
        torch.testing.assert_close(tensor[~ended], unended[~ended], rtol=0, atol=1e-5)
    vector = steered(4.0).source.value.double()  # type: ignore[union-attr]
    for row in range(8):
        new = [token for token in made.ids[1, row].tolist() if token >= 0]
        prompt = given[row // 4]
        edited, unedited = (says(prompt, new, steered_run("gpt2", c, 4 * vector, prompt)) for c in (ALWAYS, NEVER))
        near("gpt2", made.kl[1, row, : len(new)], kl(edited, unedited))
        near("gpt2", made.unedited_logprobs[1, row, : len(new)], logprobs(unedited, new))
        mean = float(logprobs(unedited, new).mean())
        assert float(made.perplexity[1, row].log()) == pytest.approx(-mean, abs=1e-4)


def test_the_table_and_what_was_not_compared(seed: int) -> None:
    given = prompts("gpt2", seed)
    made = write("gpt2", given, [None, *doses(steered(1.0), [0, 5])], compare=True)
    table = made.table()
    assert table.strength.isna().tolist() == [True, True, False, False, False, False]
    assert table.strength.tolist()[2:] == [0, 0, 5, 5]
    for line in table.itertuples():
        row = line.Index % 2
        assert line.perplexity == pytest.approx(float(made.perplexity[line.cell, row]))
        assert line.kl == pytest.approx(float(made.kl[line.cell, row].mean()))
        assert line.unedited_logprob == pytest.approx(float(made.unedited_logprobs[line.cell, row].sum()))
    alone = write("gpt2", given, steered(1.0))
    assert {"strength", "kl", "perplexity"} & set(alone.table().columns) == set()
    for name in ("unedited_logprobs", "kl", "reverse_kl", "perplexity"):
        with pytest.raises(GenerationError, match="pass compare=True to generate"):
            getattr(alone, name)


def as_listed(seed: int, given: Any, asked: list[Any], **options: Any) -> tuple[Generated, Generated]:
    """With ``given``, and with the same in front of every intervention."""
    before = Intervention.of(given)
    listed = [before if one is None else before.then(Intervention.of(one)) for one in asked]
    return (
        write("gpt2", prompts("gpt2", seed), asked, given=given, **options),
        write("gpt2", prompts("gpt2", seed), listed, **options),
    )


def test_what_is_given_comes_first(seed: int) -> None:
    """The same as an intervention that begins with it, also where the two do not commute; None is what is given alone."""
    half = Change(SITE, edit=Scale(0.5))
    for given, asked in (
        (Change("L1H2.z", edit=Scale(0.0)), [None, steered(5.0), steered(5.0, positions=6)]),
        (half, [None, steered(5.0), Change("L1H2.z", edit=Scale(0.0))]),
        (steered(5.0), [None, half, steered(5.0), steered(2.0, positions=-1)]),
    ):
        one, other = as_listed(seed, given, asked)
        assert torch.equal(one.ids, other.ids)
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=1e-6)
        assert one.attrs["given"] == f"Intervention({given!r})"
    swapped = write("gpt2", prompts("gpt2", seed), half, given=steered(5.0))
    assert not torch.equal(swapped.logprobs[0], write("gpt2", prompts("gpt2", seed), steered(5.0), given=half).logprobs[0])
    with pytest.raises(OrderError, match="do not commute"):
        write("gpt2", prompts("gpt2", seed), Intervention.of(half, steered(5.0)))
    assert "what is given:" in repr(one)
    assert repr(one).startswith("Generated(4 interventions × 2 texts of up to 6 tokens, scope ")


def test_the_unedited_model_has_what_is_given(seed: int) -> None:
    """Comparing is with what is given in force; a strength of 0 then differs in nothing."""
    knocked, given = Change("L1H2.z", edit=Scale(0.0)), prompts("gpt2", seed)
    made = write("gpt2", given, [None, *doses(steered(1.0), [0, 6])], given=knocked, compare=True)
    assert float(made.kl[:2].max()) < 1e-10
    assert torch.equal(made.ids[0], write("gpt2", given, knocked).ids[0])
    vector = 6 * steered(1.0).source.value.double()  # type: ignore[union-attr]
    tested = model("gpt2")
    w_o = tested.module.get_submodule("transformer.h.1.attn.c_proj")

    def silent(owner: Any, args: Any) -> Any:
        z = args[0].clone()
        width = z.shape[-1] // tested.sizes["head"]
        z[..., 2 * width : 3 * width] = 0
        return (z,)

    handle = w_o.register_forward_pre_hook(silent)
    try:
        for row, prompt in enumerate(given):
            new = made.ids[2, row].tolist()
            edited, unedited = (says(prompt, new, steered_run("gpt2", c, vector, prompt)) for c in (ALWAYS, NEVER))
            near("gpt2", made.logprobs[2, row], logprobs(edited, new))
            near("gpt2", made.unedited_logprobs[2, row], logprobs(unedited, new))
            near("gpt2", made.kl[2, row], kl(edited, unedited))
    finally:
        handle.remove()


@pytest.mark.parametrize("scope", ["prompt", "new"])
def test_what_is_given_is_everywhere_whatever_the_scope(scope: Any, seed: int) -> None:
    """And what is asked for is not, also where it is the same change."""
    given = prompts("gpt2", seed)
    lengths = [len(said(prompt)) for prompt in given]
    vector = 5 * steered(1.0).source.value.double()  # type: ignore[union-attr]
    same_change = steered(5.0)
    made = write("gpt2", given, [None, same_change], given=same_change, scope=scope)
    for row, (prompt, n) in enumerate(zip(given, lengths, strict=True)):
        alone, both = made.ids[0, row].tolist(), made.ids[1, row].tolist()
        near("gpt2", made.logprobs[0, row], logprobs(says(prompt, alone, steered_run("gpt2", ALWAYS, vector, prompt)), alone))
        twice = torch.tensor([2.0 if (p < n) == (scope == "prompt") else 1.0 for p in range(n + NEW)])[:, None].double()
        run = steered_run("gpt2", ALWAYS, twice[: n + NEW] * vector, prompt)
        near("gpt2", made.logprobs[1, row], logprobs(says(prompt, both, run), both))


def test_the_base_of_a_source_has_what_is_given(seed: int) -> None:
    """Replacing a value by the base's own is nothing, with what is given in force there too."""
    (prompt,) = [Prompt(text) for text in ids(seed, 6)]
    own = Change("L2.resid_post", -1, Activation("base"))  # what the first new token is said from
    made = write("gpt2", [prompt], [None, own], given=steered(5.0), compare=True)
    assert torch.equal(made.ids[0], made.ids[1])
    assert float(made.kl[1].max()) < 1e-9
    of_prompt = Change(SITE, (1, 2), Activation("base", positions=0))  # its source is the base as it was
    write("gpt2", [prompt], own, given=of_prompt)


def test_inside_of_an_edited_model(seed: int) -> None:
    """What is in force there is given, in front of what is given besides; and it is no difference that is compared."""
    knocked, given, tested = Change("L1H2.z", edit=Scale(0.0)), prompts("gpt2", seed), model("gpt2")
    expected = write("gpt2", given, [None, steered(4.0)], given=[knocked, steered(2.0)], compare=True, scope="new")
    with tested.edited(knocked):
        found = write("gpt2", given, [None, steered(4.0)], given=steered(2.0), compare=True, scope="new")
        scored = score(tested, given, steered(4.0), compare=True)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.logprobs, expected.logprobs)
    assert torch.equal(found.kl, expected.kl)
    assert found.attrs["given"] == expected.attrs["given"]
    xr.testing.assert_identical(scored, score(tested, given, steered(4.0), given=knocked, compare=True))


def test_mistakes_in_what_is_given(seed: int) -> None:
    given = prompts("gpt2", seed)
    with pytest.raises(ShapeMismatchError, match="name positions of the prompt, or a source of one token"):
        write("gpt2", given, None, given=Change(SITE, source=Activation("base")), scope="prompt")
    with pytest.raises(PositionError, match="can never be reached"):
        write("gpt2", given, None, given=steered(1.0, positions=40))
    with pytest.raises(HeadOutOfRangeError, match="layer 7"):
        write("gpt2", given, steered(1.0), given=Change("L7.z", edit=Scale(0.0)))
    with pytest.raises(ValueError, match=r"given holds 'L1\.z' of type str"):
        sweeps.unchecked(generate)(model("gpt2"), given, given="L1.z")
    assert write("gpt2", given, None, given=[]).attrs["given"] is None


def test_followers_are_not_returned(seed: int) -> None:
    """Rows that follow are fed what they follow: in the loop itself, the last two follow the first and the last of three."""
    tested = model("gpt2")
    first, *others = ids(seed, 6, 6, 6)
    tokens = tested.encode([first, *others, first, first])
    made = continued(tested, tokens, configured(tested, max_new_tokens=4, min_new_tokens=4), followed=torch.tensor([0, 2]))
    assert made.ids.shape == (3, 4)
    assert made.compared is not None
    assert float(made.compared.kl[:2].max()) < 1e-10, "the first is followed by itself, the second by nobody"
    new, prompt = made.ids[2].tolist(), Prompt(first)
    own = says(prompt, new, steered_run("gpt2", NEVER, torch.zeros(tiny.WIDTH), prompt))
    near("gpt2", made.compared.logprobs[2], logprobs(own, new))
