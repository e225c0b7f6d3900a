"""Texts generated under interventions: what is drawn, what ends them, what is left behind, and mistakes that are named."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import sweeps
import tiny
import torch
from generation_by_hand import NEW, ids, model, prompts, rows, said, steered, write
from torch import Tensor

from interp import generate
from interp.doctor import architectures
from interp.errors import (
    GenerationError,
    HeadOutOfRangeError,
    InputError,
    PositionError,
    SiteNotFiredError,
    UnknownNameError,
    UnknownSiteError,
)
from interp.interventions import Add, Apply, Change, Constant, Scale
from interp.models import Model, load
from interp.prompts import Prompt


def test_draws(seed: int) -> None:
    """One seed gives one text, whatever stands beside it in the batch, and leaves torch's own draws as they were."""
    given, options = prompts("gpt2", seed), {"do_sample": True, "temperature": 8.0, "seed": seed}
    before = torch.get_rng_state()
    made = write("gpt2", given, [None, steered(0.0), steered(3.0)], num_return_sequences=3, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.ids.shape == (3, 6, NEW)
    assert made.prompts == tuple(" ".join(map(str, said(prompt))) for prompt in given for _ in range(3))
    assert torch.equal(made.ids[0], made.ids[1]), "rows of a prompt share their luck, whatever the dose"
    assert len({tuple(row) for row in rows(made, 0)}) == 6, "and have their own otherwise"
    again = write("gpt2", given, steered(3.0), num_return_sequences=3, rows=4, **options)
    assert torch.equal(again.ids[0], made.ids[2])
    assert not torch.equal(write("gpt2", given, None, **(options | {"seed": seed + 1})).ids[0], made.ids[0, ::3])


def test_draws_are_as_frequent_as_they_are_probable(seed: int) -> None:
    """4000 first tokens against the softmax of the logits over the five largest, at half temperature.

    The total variation distance of n draws from k outcomes is about sqrt(k / (2 π n)) = 0.014 on average; 0.05 is far behind.
    """
    (prompt,) = [Prompt(text) for text in ids(seed, 5)]
    many = {"num_return_sequences": 4000, "do_sample": True, "temperature": 0.5, "top_k": 5, "min_new_tokens": 0}
    made = write("gpt2", [prompt], None, max_new_tokens=1, seed=seed, **many)
    with torch.no_grad():
        logits = model("gpt2").module(torch.tensor([prompt.text])).logits[0, -1]
    best = logits.topk(5)
    expected = torch.zeros(tiny.VOCAB, dtype=torch.float64).scatter(0, best.indices, (2 * best.values).softmax(-1))
    counted = torch.bincount(made.ids.flatten(), minlength=tiny.VOCAB) / 4000
    assert float((counted - expected).abs().sum() / 2) < 0.05
    torch.testing.assert_close(made.logprobs.flatten(), logits.float().log_softmax(-1)[made.ids.flatten()])


def test_texts_that_end(seed: int) -> None:
    """A row's end is the first token that ends it; what was not reached is warned of, and no edit of other rows moves."""
    given = prompts("gpt2", seed)
    free = write("gpt2", given, None)
    end = int(free.ids[0, 0, 1])
    ends = {"eos_token_id": end, "min_new_tokens": 0}
    after = [row.index(end) + 1 if end in row else NEW for row in rows(free, 0)]
    assert after[0] <= 2
    made = write("gpt2", given, None, **ends, capture=["L0.resid_pre"])
    assert made.lengths[0].tolist() == after
    assert made.stopped == (tuple("eos" if end in row else "length" for row in rows(free, 0)),)
    assert made.texts[0][0] == " ".join(map(str, rows(free, 0)[0][: after[0] - 1])), "the text is without its end"
    assert bool(made.logprobs[0, 0, after[0] :].isnan().all())
    there = ~made.activation("L0.resid_pre")[0, 0, :, 0].isnan()
    assert there.nonzero().flatten().tolist() == list(range(3, 8 + after[0] - 1))
    beyond = 5 + after[0] - 1  # the first position of row 0 that it never came to, and in row 1 one of the prompt
    with pytest.warns(RuntimeWarning, match=rf"L1.resid_post@{beyond} .* was not reached in 1 of 2 rows"):
        write("gpt2", given, steered(0.0, positions=beyond), **ends)
    assert write("gpt2", given, None, **ends, max_new_tokens=after[0]).stopped[0][0] == "eos", (
        "not its length, though both end it"
    )
    with pytest.warns(RuntimeWarning, match=r"L1.resid_post@9 .* was not reached in [12] of 2 rows"):
        write("gpt2", given, steered(0.0, positions=9), **ends)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write("gpt2", given, steered(0.0, positions=beyond - 1), **ends)


def test_the_module_is_left_as_it_was(seed: int) -> None:
    tested = load(architectures.build("gpt2").double(), name="own")
    module = tested.module
    module.train()
    handle = module.get_submodule("transformer.h.0").register_forward_hook(lambda *args: None)
    config, hooks = module.generation_config, [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
    written = config.to_dict()

    def breaks(h: Tensor, s: Tensor) -> Tensor:
        raise RuntimeError("of the user's own")

    generate(tested, prompts("gpt2", seed), Change("L1.pattern", edit=Scale(0.5)), max_new_tokens=3)
    with pytest.raises(RuntimeError, match="of the user's own"):
        generate(tested, prompts("gpt2", seed), Change("L1.z", source=Constant(0.0), edit=Apply(breaks)), max_new_tokens=3)
    assert module.training
    assert module.generation_config is config
    assert config.to_dict() == written
    assert module.config._attn_implementation != "eager"
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()] == hooks
    handle.remove()


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "scope": ({"scope": "nwe"}, UnknownNameError, "unknown scope 'nwe'; did you mean 'new'"),
    "no room": ({"scope": "new", "max_new_tokens": 1}, PositionError, "never fed"),
    "no tokens": ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
    "option": ({"temprature": 0.5}, UnknownNameError, "did you mean 'temperature'"),
    "not handed out": ({"output_scores": True}, UnknownNameError, "capture="),
    "beams": ({"num_beams": 2}, GenerationError, "beam_search .* num_beams=1"),
    "one text": ({"num_return_sequences": 2}, GenerationError, "do_sample=True"),
    "drawing": ({"temperature": 0.5}, GenerationError, "temperature=0.5 .* do_sample=True"),
    "an end": ({"eos_token_id": "."}, GenerationError, "stop_strings="),
    "no tokenizer": ({"stop_strings": ["."]}, GenerationError, "model has no tokenizer"),
    "too long": ({"max_new_tokens": 61}, PositionError, "5 tokens with max_new_tokens=61 takes 65 positions, .* learned 64"),
    "a word": ({"interventions": "L1.z"}, ValueError, "interventions holds 'L1.z'"),
    "patching": ({"patching": "noisy"}, UnknownNameError, "unknown patching"),
    "beyond": (
        {"interventions": steered(1.0, positions=10)},
        PositionError,
        "10 can never be reached in example 0: its prompt has 5 tokens, .* is at 9",
    ),
    "before": ({"interventions": steered(1.0, positions=-6)}, PositionError, "−5 to −1"),
    "no pair": ({"interventions": Change("L1.z")}, InputError, r"source prompt, .* pass interp.Pair"),
    "site": ({"interventions": Change("L1.routing", edit=Scale())}, UnknownSiteError, "routing"),
    "layer": ({"interventions": Change("L7.z", edit=Scale())}, HeadOutOfRangeError, "layer 7"),
    "type": ({"interventions": ["L1.z"]}, ValueError, "interventions holds 'L1.z' of type str"),
    "none": ({"interventions": []}, ValueError, "empty list"),
    "captured": ({"capture": ["L9.z"]}, HeadOutOfRangeError, "layer 9"),
    "messages": (
        {"prompts": [{"role": "user", "content": "Hi"}]},
        InputError,
        "is a chat, 'user: Hi', but the model has no tok",
    ),
    "prompts": ({"prompts": 3}, InputError, "prompts is int"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name: str) -> None:
    options, error, words = WRONG[name]
    given = {"prompts": [Prompt((5, 6, 7, 8, 9))], "interventions": None, "max_new_tokens": 6} | options
    with pytest.raises(error, match=words):
        sweeps.unchecked(generate)(model("gpt2"), **given)


def test_models_that_cannot(seed: int) -> None:
    with pytest.raises(GenerationError, match=r"BertForMaskedLM, which has no generate\(\)"):
        generate(load(architectures.build("bert")), [(5, 6)])
    with pytest.raises(GenerationError, match="by a decoder of its own"):
        generate(load(architectures.build("blip")), [(5, 6)])
    with pytest.raises(UnknownSiteError, match="not named in capture="):
        write("gpt2", prompts("gpt2", seed), None).activation("L1.z")
    with pytest.raises(SiteNotFiredError, match=r"fired 0 times in Window\(start=0, stop=5\)"):
        write("gpt2", [Prompt((5, 6, 7, 8, 9))], Change("transformer.h:output", edit=Scale()), max_new_tokens=2)
    with pytest.raises(GenerationError, match="are not numbers"):
        write("gpt2", prompts("gpt2", seed), [None, steered(torch.inf)])


def test_smollm2_cached_is_uncached_under_steering(loaded_smollm2: Model) -> None:
    tested = loaded_smollm2
    vector = torch.randn(tested.sizes["d_model"], generator=torch.Generator().manual_seed(0))
    doses = [Change("L12.resid_post", source=Constant(vector), edit=Add(dose)) for dose in (0.0, 3.0)]
    given = ["The weather today is", "My favourite thing about the city where I was born is"]
    made = [generate(tested, given, [None, *doses], max_new_tokens=6, use_cache=kept) for kept in (True, False)]
    assert made[0].texts == made[1].texts
    assert made[0].texts[0] == made[0].texts[1] != made[0].texts[2]
    torch.testing.assert_close(made[0].logprobs, made[1].logprobs, rtol=0, atol=1e-3, equal_nan=True)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tested.tokenizer.apply_chat_template(messages, add_generation_prompt=True)  # type: ignore[union-attr]
    answer = generate(tested, chat, max_new_tokens=12, stop_strings=[" Paris"])
    assert answer.texts[0][0].endswith(" Paris")
    assert answer.stopped == (("StopString",),)
