"""From prompts to what a forward is given: pictures through a model's own processor, arrays, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import anything
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from interp.doctor import architectures
from interp.errors import InputError, PositionError
from interp.models import Model
from interp.models.reading import Reading
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, Site

SIDE = architectures.IMAGE
PATCHES = (architectures.IMAGE // architectures.PATCH) ** 2
IMAGE = architectures.VOCAB - 1
WORDS = ["[UNK]", "what", "colour", "is", "this", "?", "a", "red"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Words by white space; the picture's token is a special one."""
    words = {word: number for number, word in enumerate(WORDS)} | {"<image>": IMAGE}
    inner = Tokenizer(tokenizer_models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[UNK]")
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def processor() -> LlavaProcessor:
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        pictures,
        tokenizer(),
        patch_size=architectures.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava() -> Model:
    return Model(architectures.build("llava"), tokenizer(), processor=processor())


def photo(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (SIDE + 5, SIDE, 3), dtype=np.uint8)


def test_a_picture_in_a_text_becomes_as_many_tokens_as_it_has_patches(seed: int) -> None:
    """Expected: the processor's own arrays, and roles of the text moved behind the picture's tokens."""
    model = llava()
    text = "what is <image> this red ?"
    roles = {"before": (0, 4), "around": (5, 20), "colour": (21, 24)}
    found = model.encode([Prompt(text, roles, images=(photo(seed),))])
    expected = processor()(text=text, images=[photo(seed)], return_tensors="pt")
    assert torch.equal(found.ids, expected["input_ids"])
    assert torch.equal(found.inputs()["pixel_values"], expected["pixel_values"])
    columns = {role: found.columns(Positions.parse(role))[0].tolist() for role in (*roles, "image")}
    assert columns == {
        "before": [0],
        "around": list(range(1, 4 + PATCHES - 1)),
        "colour": [3 + PATCHES],
        "image": list(range(2, 2 + PATCHES)),
    }


def test_a_picture_in_a_chat(seed: int) -> None:
    """The template says where the picture is; no special tokens are added to what it writes."""
    model = llava()
    model.tokenizer.chat_template = (  # type: ignore[union-attr]
        "{% for m in messages %}{% for p in m['content'] %}{{ '<image> ' if p['type'] == 'image' else p['text'] }}{% endfor %}"
        "{% endfor %} ?"
    )
    parts = [{"type": "image"}, {"type": "text", "text": "this red"}]
    found = model.encode(Prompt([{"role": "user", "content": parts}], {"colour": "red"}, images=(photo(seed),)))
    same = model.encode(Prompt("<image> this red ?", {"colour": "red", "user": "this red"}, images=(photo(seed),)))
    assert torch.equal(found.ids, same.ids)
    assert torch.equal(found.inputs()["pixel_values"], same.inputs()["pixel_values"])
    assert {role: at.tolist() for role, at in found.roles.items()} == {role: at.tolist() for role, at in same.roles.items()}
    assert found.roles["colour"].tolist() == [[1 + PATCHES]]


def test_pictures_and_numbers_give_the_same_pass(seed: int) -> None:
    model = llava()
    given = processor()(text="<image> red", images=[photo(seed)], return_tensors="pt")
    asked = Prompt("<image> red", images=(photo(seed),))
    by_hand = Prompt(tuple(given["input_ids"][0].tolist()), inputs={"pixel_values": given["pixel_values"][0]})
    with_batch = Prompt(by_hand.text, inputs={"pixel_values": given["pixel_values"]})
    logits = Site("logits")
    with torch.no_grad(), model.prepared():
        runs = [model.backend.run(model.inputs(model.encode([p])), [logits], {})[logits] for p in (asked, by_hand, with_batch)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_a_text_without_a_picture_is_one_too() -> None:
    found = llava().encode(["what is this ?"])
    assert "pixel_values" not in found.inputs()


def test_a_picture_alone(seed: int) -> None:
    """A classifier's processor is one of images; the pair's digest knows the picture."""
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    model = Model(architectures.build("vit"), processor=pictures)
    found = model.encode([Prompt(images=(photo(seed),))])
    assert torch.equal(found.inputs()["pixel_values"], pictures(images=[photo(seed)], return_tensors="pt")["pixel_values"])
    one, other = (Pairs((Pair(Prompt(images=(photo(seed),)), Prompt(images=(photo(s),))),)) for s in (seed, seed + 1))
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("architecture", "prompt", "says"),
    [
        ("vit", Prompt(images=(np.zeros((4, 4, 3)),)), "the prompt has images, but the model has no processor"),
        ("vit", Prompt("what"), r"the model's forward needs pixel_values: .* such as of shape \(3, 16, 16\)"),
        ("vit", Prompt(inputs={"pixels": np.zeros((3, 16, 16))}), r"inputs=\{'pixels': …\}, but the model's forward takes"),
        ("vit", Prompt(inputs={"pixel_values": np.zeros(3)}), r"has shape \(3,\); one example's has 3 axes"),
        ("blip", Prompt((5, 6)), "the model's forward needs pixel_values"),
    ],
)
def test_what_a_forward_is_not_given(architecture: str, prompt: Prompt, says: str) -> None:
    with pytest.raises(InputError, match=says):
        anything.model(architecture).encode([prompt])


def test_prompts_of_one_call_give_the_same_arguments() -> None:
    pictures = {"pixel_values": np.zeros((3, SIDE, SIDE))}
    with pytest.raises(InputError, match="prompt 1 has no 'pixel_values', which others of the same call have"):
        anything.model("llava").encode([Prompt((5, 6), inputs=pictures), Prompt((5, 6))])
    wide = {"pixel_values": np.zeros((3, SIDE, 2 * SIDE))}
    with pytest.raises(InputError, match=r"'pixel_values' has the shapes \(3, 16, 16\) and \(3, 16, 32\); run them apart"):
        anything.model("vit").encode([Prompt(inputs=pictures), Prompt(inputs=wide)])


def test_a_role_of_a_stream_that_token_ids_enter_is_a_span_of_its_text() -> None:
    with pytest.raises(PositionError, match="role encoder:…: token ids enter this stream"):
        anything.model("t5").encode([Prompt((5, 6), {"encoder:first": (0, 1)})])


def test_the_decoder_begins_with_its_own_token() -> None:
    """A target that is left out is the token with which the decoder begins; one in words begins with it."""
    reading = Reading(tokenizer(), main="decoder_input_ids", texts={"encoder": "input_ids"}, begin=9)
    plain, said = Prompt("what is"), Prompt("what is this", target=Prompt("a red", {"colour": (2, 5)}))
    assert reading.tokens([plain], "model").ids.tolist() == [[9]]
    both = reading.tokens([said, said], "model")
    assert both.ids.tolist() == [[9, 6, 7]] * 2
    assert both.columns(Positions.parse("colour")).tolist() == [[2], [2]]
    assert both.others["input_ids"].tolist() == [[1, 3, 4]] * 2
    assert both.streams["encoder"].lengths.tolist() == [3, 3]
    pairs = Pairs((Pair(said, said, ("?",), ("is",)),))
    assert reading.pairs(pairs, "model").answers.tolist() == [[5]]
