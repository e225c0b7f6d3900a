"""Chats through chat templates: the same tokens as transformers makes of them, and roles where their words are.

The reference for tokens is ``apply_chat_template(tokenize=True)``; spans of roles are checked by the text that they cover.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.engine import generate, patch
from interp.errors import InputError, PositionError
from interp.models import Model
from interp.models.encoding import as_prompts, encode
from interp.models.reading import encode_pairs
from interp.models.templates import written
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid

PLAIN = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATES = {
    "plain": PLAIN,
    "with bos": "{{ bos_token }}" + PLAIN,
    "trimming": "{{ bos_token }}" + PLAIN.replace("m['content']", "m['content'] | trim"),
    "a system prompt of its own": "<|system|>The user is kind.</s>" + PLAIN,
    "parts": (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
        "{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}
CHAT = [
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": " Where is Paris? "},
    {"role": "user", "content": "In the user's France"},
]


@cache
def tokenizer(template: str | None = PLAIN, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a BOS that is added in front, as Llama's is."""
    words = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}}
    inner = Tokenizer(tokenizer_models.BPE(words, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    made.chat_template = template
    return made


def covered(prompt: Prompt) -> dict[str, str]:
    return {role: str(prompt.text)[slice(*span)] for role, span in prompt.roles.items()}


def theirs(made: Any, messages: list[dict[str, Any]]) -> list[int]:
    """What transformers makes of the same messages."""
    last = messages[-1]["role"] == "assistant"
    return made.apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=not last, continue_final_message=last
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("many", [1, 2, 3])
def test_the_tokens_are_those_of_transformers(name: str, many: int) -> None:
    """With a BOS where the template writes one, and never two, though the tokenizer adds one to any text."""
    made, messages = tokenizer(TEMPLATES[name]), CHAT[:many]
    tokens = encode([Prompt(messages)], made)
    assert tokens.ids is not None
    assert tokens.ids[0].tolist() == theirs(made, messages)
    assert tokens.ids[0].tolist().count(0) == int("bos_token" in TEMPLATES[name])
    assert encode(["a"], made).ids.tolist()[0][0] == 0, "a text gets its own"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "bos", "count"),
    [("plain", "model", 0), ("plain", True, 1), ("plain", False, 0), ("with bos", True, 1), ("with bos", False, 1)],
)
def test_bos_of_a_chat(name: str, bos: Any, count: int) -> None:
    """True puts one where there is none; the template's own stays."""
    ids = encode([Prompt(CHAT)], tokenizer(TEMPLATES[name]), bos).ids
    assert ids is not None
    assert ids[0].tolist().count(0) == count == int(ids[0, 0] == 0)


@pytest.mark.parametrize("name", TEMPLATES)
def test_roles_are_where_their_words_are(name: str) -> None:
    """Though speakers' names, and what the template says itself, hold the same words."""
    prompt = Prompt(CHAT, {"whose": ("user", 1), "city": "Paris", "it": ("user", 0)})
    found = written(prompt, tokenizer(TEMPLATES[name]))
    expected = {"whose": "user", "city": "Paris", "it": "user", "user 1": "user", "user": "In the user's France"}
    assert covered(found) == {**expected, "assistant": "Where is Paris?"}
    text = str(found.text)
    assert (text[: found.roles["it"][0]].endswith("<|user|>"), text[found.roles["whose"][1] :][:2]) == (True, "'s")
    assert found.templated


def test_roles_as_tokens() -> None:
    """With one byte a token, a role's tokens are its letters."""
    tokens = encode([Prompt(CHAT, {"city": "Paris"}), Prompt(CHAT[:2], {"city": "Paris"})], tokenizer(TEMPLATES["with bos"]))
    for row in range(2):
        first = int(tokens.first[row])
        assert [tokens.strings[row][i - first] for i in tokens.roles["city"][row].tolist()] == [*"Paris"]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "system"]), st.text("us er\n<|>é", max_size=8)), min_size=1, max_size=4),
    st.sampled_from([*TEMPLATES]),
)
def test_whatever_is_said_is_found(said: list[tuple[str, str]], name: str) -> None:
    messages = [{"role": role, "content": content} for role, content in said]
    prompt = Prompt(messages)
    found = written(prompt, tokenizer(TEMPLATES[name]))
    assert covered(found) == {role: text.strip() for role, text in covered(prompt).items() if text.strip()}
    assert found.text == tokenizer(TEMPLATES[name]).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_parts_of_a_message() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    found = written(Prompt([{"role": "user", "content": parts}], {"it": "this"}), tokenizer(TEMPLATES["parts"]))
    assert found.text == "<|user|><image>What is this?</s><|assistant|>"
    assert covered(found) == {"it": "this", "user": "What is this?"}


def test_what_a_template_changes_has_no_roles() -> None:
    made = tokenizer(PLAIN.replace("m['content']", "m['content'] | upper"))
    shouted = written(Prompt(CHAT[:1]), made)
    assert (shouted.text, shouted.roles) == ("<|user|>USER</s><|assistant|>", {})
    with pytest.raises(
        PositionError, match=r"role 'x' covers 'use' of 'user: user', which the chat template changes: '<\|user\|>U"
    ):
        written(Prompt(CHAT[:1], {"x": "use"}), made)
    first = tokenizer(PLAIN.replace("m['content']", "(m['content'] | upper if loop.first else m['content'])"))
    assert covered(written(Prompt(CHAT), first)) == {"assistant": "Where is Paris?", "user": "In the user's France"}


def test_what_no_template_takes() -> None:
    with pytest.raises(
        InputError, match=re.escape("the prompt is a chat, 'user: user', but its tokenizer has no chat template; ")
    ):
        encode([Prompt(CHAT[:1])], tokenizer(None))
    with pytest.raises(InputError, match="but the model has no tokenizer; give token ids"):
        encode([Prompt(CHAT[:1])], None)
    refusing = tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(InputError, match="the chat template refuses the messages of user and assistant: System role not"):
        encode([Prompt(CHAT)], refusing)
    with pytest.raises(InputError, match="a chat is a list of messages"):
        as_prompts(iter(CHAT))


def test_prompts_in_every_form() -> None:
    chat = Prompt(CHAT)
    assert as_prompts(CHAT) == as_prompts([CHAT]) == as_prompts(chat) == as_prompts([chat]) == [chat]
    assert as_prompts([CHAT, "a", (1, 2), chat]) == [chat, Prompt("a"), Prompt((1, 2)), chat]
    assert as_prompts("a") == [Prompt("a")]


def test_a_text_that_a_template_wrote() -> None:
    made = tokenizer(TEMPLATES["with bos"])
    text = str(made.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True))
    assert encode([Prompt(text, templated=True)], made).ids.tolist()[0] == theirs(made, CHAT)  # type: ignore[union-attr]
    with pytest.warns(
        RuntimeWarning, match=r"begins with BOS itself, and the tokenizer adds another; give a chat as its messages"
    ):
        twice = encode([text], made)
    assert twice.ids is not None
    assert twice.ids[0].tolist() == [0, *theirs(made, CHAT)]
    assert encode([text], made, True).ids.tolist()[0] == theirs(made, CHAT), "exactly one"  # type: ignore[union-attr]


def test_an_answer_follows_what_the_template_wrote() -> None:
    """Behind ``bot:`` a word piece, ``##d``; behind the transcript, which ends in ``b``, it would be another word, ``bd``."""
    words = {word: i for i, word in enumerate(["[UNK]", "user:", "b", "bd", "bot:", "##d", "d"])}
    inner = Tokenizer(tokenizer_models.WordPiece(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    made.chat_template = "{% for m in messages %}user: {{ m['content'] }} {% endfor %}bot:"
    chat = [{"role": "user", "content": "b"}]
    assert encode_pairs(Pairs((Pair(chat, chat, "d"),)), made).answers.tolist() == [[5]]
    assert encode_pairs(Pairs((Pair("user: b", "b", "d"),)), made).answers.tolist() == [[6]]


# the real one


def test_smollm2_chats(smollm2: Path, loaded_smollm2: Model) -> None:
    """A default system prompt comes first, which is no message and no role."""
    model, real = loaded_smollm2, AutoTokenizer.from_pretrained(smollm2)
    for messages in (CHAT[:1], CHAT[:2], CHAT):
        tokens = model.encode(messages)
        assert tokens.ids[0].tolist() == theirs(real, messages)
    tokens = model.encode(Prompt(CHAT[2:], {"place": "France"}))
    assert tokens.strings[0][int(tokens.roles["place"][0, 0])] == " France"
    assert "system" not in tokens.roles
    made = generate(model, [{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=12)
    assert made.texts[0][0].startswith("The capital of France is Paris")


def test_smollm2_a_chat_task_is_traced_by_span(loaded_smollm2: Model) -> None:
    """The country in the user's message, patched in the first layer, is the whole effect; at the end it is so in the last."""
    model = loaded_smollm2

    def chat(country: str) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": f"What is the capital of {country}?"},
            {"role": "assistant", "content": "It is the city of"},
        ]

    both = {"France": " Paris", "Italy": " Rome"}
    pairs = Pairs(
        tuple(
            Pair(Prompt(chat(a), {"country": a}), Prompt(chat(b), {"country": b}), both[a], both[b])
            for a, b in (("France", "Italy"), ("Italy", "France"))
        )
    )
    found = patch(model, pairs, grid("resid_post", layer=[0, 29], position=["country", "user", -1]), skip_inert=False)
    effect = (found.value - found.corrupt) / (found.clean - found.corrupt)
    assert found.attrs["bos"] is True
    assert found.clean_prompt.values[0] == "user: What is the capital of France?\nassistant: It is the city of"
    share = effect.mean("example").squeeze().transpose("layer", "position").values
    assert abs(share - [[1, 1, 0], [0, 0, 1]]).max() < 0.05
