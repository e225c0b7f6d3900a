"""The gym: every task's sentences, pairs, control and parts; its readers; and which labels a real tokenizer and model know."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import interp
from interp import tasks
from interp.errors import AnswerError, InputError, UnknownNameError
from interp.prompts import Pair, Prompt
from interp.tasks import GYM, GYM_GROUPS, GymTask, causal_gym, gym_tasks, lexicon, read_gym, read_gym_pairs
from interp.tasks.causal_gym.words import MEN, OPENINGS, PEOPLE

#: How many tasks the paper has in each group.
PUBLISHED = {"agreement": 4, "licensing": 7, "garden path": 6, "gross syntactic state": 4, "long-distance": 8}

NAMES = pytest.mark.parametrize("name", GYM)


def kind(task: GymTask, label: object) -> str:
    [found] = [kind for kind, labels in task.labels.items() if label in labels]
    return found


def sides(pair: Pair) -> tuple[tuple[Prompt, object], tuple[Prompt, object]]:
    """Each prompt with the label that is right for it."""
    return (pair.clean, pair.answers[0]), (pair.corrupted, pair.wrong[0])


def test_tasks_and_groups_are_those_of_the_paper() -> None:
    assert {group: len(gym_tasks(group)) for group in GYM_GROUPS} == PUBLISHED
    assert gym_tasks() == tuple(GYM.values())
    assert len(GYM) == 29
    assert all(task.name == name and task.description for name, task in GYM.items())
    assert len({task.description for task in GYM.values()}) == 29
    with pytest.raises(UnknownNameError, match=r"unknown group 'licencing' of causal_gym; did you mean 'licensing'\?"):
        gym_tasks("licencing")


@NAMES
def test_pairs_of_a_task(name: str, seed: int) -> None:
    """Card 14 trains on 200 contrasts in both directions and tests on 50 others."""
    task, pairs = GYM[name], causal_gym(500, name=name, seed=seed)
    assert len({frozenset(str(prompt.text) for prompt, _ in sides(pair)) for pair in pairs[::2]}) == 250
    types = Counter(kind(task, label) for pair in pairs for label in pair.answers)
    assert types == dict.fromkeys(task.types, 250)
    firsts = Counter(kind(task, pair.wrong[0]) for pair in pairs[::2])  # a fair coin: 250 throws, 6 deviations
    assert all(78 <= firsts[one] <= 172 for one in task.types)
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert other == one.swap()
        assert one.clean.text != one.corrupted.text
        assert kind(task, one.answers[0]) != kind(task, one.wrong[0])
    assert {pair.template for pair in pairs} == {f"causal_gym/{name}"}
    assert pairs.made_by["regions"] == list(task.regions)
    json.dumps(pairs.made_by)


@NAMES
def test_regions_align_and_cover_the_text(name: str, seed: int) -> None:
    task, pairs = GYM[name], causal_gym(40, name=name, seed=seed)
    assert pairs.roles == ("opening", *task.regions, "END")
    for pair in pairs:
        for prompt, _ in sides(pair):
            text, spans = str(prompt.text), [prompt.roles[region] for region in pairs.roles[:-1]]
            assert [text[a:b] for a, b in spans] == [text[a:b].strip() for a, b in spans]
            assert " ".join(text[a:b] for a, b in spans) == text
            assert text[slice(*prompt.roles["END"])] == text.split()[-1]
        differing = {
            region
            for region in task.regions
            if len({str(prompt.text)[slice(*prompt.roles[region])] for prompt, _ in sides(pair)}) == 2
        }
        assert differing == {region for region in task.regions if set(region.split("+")) & set(task.varies)}


@NAMES
def test_sentences_are_written_as_sentences_are(name: str, seed: int) -> None:
    for pair in causal_gym(60, name=name, seed=seed, before=()):
        for prompt, label in sides(pair):
            text = str(prompt.text)
            assert re.fullmatch(r"[A-Z][A-Za-z ]*(, the [a-z ]+)?", text), text
            assert "  " not in text
            assert not text.endswith(" ")
            words = text.split()
            assert all(a != b for a, b in itertools.pairwise(words)), text
            assert isinstance(label, str)
            assert label.startswith(" ") or label in {",", "."}


def test_a_word_and_its_plural_are_not_in_one_sentence() -> None:
    for pair in causal_gym(300, name="agr_sv_num_pp", seed=4):
        text = str(pair.clean.text)
        subject, object = (text[slice(*pair.clean.roles[role])].removesuffix("s") for role in ("subject", "object"))
        assert subject != object
    assert len(set(PEOPLE)) == len(PEOPLE)
    assert len(set(MEN)) == len(MEN)


@NAMES
def test_only_the_type_differs(name: str, seed: int) -> None:
    """Where a noun has both numbers, it is the same noun; labels are those of one place too (is/are, was/were)."""
    task = GYM[name]
    for pair in causal_gym(30, name=name, seed=seed):
        if "subject" in task.varies:
            one, other = (str(prompt.text)[slice(*prompt.roles["subject"])] for prompt, _ in sides(pair))
            assert {one, other} in [{noun, noun + "s"} for noun in (*PEOPLE, *MEN)]
        one, other = task.labels.values()
        if len(one) == len(other):
            by_kind = {kind(task, label): label for _, label in sides(pair)}
            assert one.index(by_kind[task.types[0]]) == other.index(by_kind[task.types[1]])  # type: ignore[arg-type]


@NAMES
def test_same_seed_same_pairs_and_a_prefix(name: str, seed: int) -> None:
    some = causal_gym(9, name=name, seed=seed)
    assert len(some) == 9
    assert causal_gym(30, name=name, seed=seed)[:9].items == some.items
    assert causal_gym(9, name=name, seed=seed + 1).items != some.items


def test_pairs_are_the_same_on_every_machine() -> None:
    # Recorded when the generator was written.
    assert causal_gym(64, seed=0).digest == "d7adefd6a7884d98"


@NAMES
def test_parts_have_no_sentence_in_common(name: str, seed: int) -> None:
    def said(part: str, seed: int) -> set[str]:
        n = {"train": 400, "eval": 100}[part]
        pairs = causal_gym(n, name=name, seed=seed, part=part, before=())
        assert len({str(pair.corrupted.text) for pair in pairs}) > n / 8
        return {str(prompt.text) for pair in pairs for prompt, _ in sides(pair)}

    assert said("train", seed).isdisjoint(said("eval", seed + 1))


def test_parts_where_both_sentences_have_little_in_common() -> None:
    """Few frames: the sentences themselves are dealt out, and pairs of two parts are left out."""
    task = replace(GYM["agr_gender"], free={"deed": ("smiled",)})
    assert task.frames == 1
    texts = {part: {str(p.clean.text) for p in causal_gym(80, name=task, part=part, before=())} for part in ("train", "eval")}
    assert texts["train"].isdisjoint(texts["eval"])
    with pytest.raises(ValueError, match=r"n=5000: task 'agr_gender' has \d+ pairs of part 'eval'"):
        causal_gym(5000, name=task, part="eval")


@NAMES
def test_the_control_has_the_same_prompts_and_two_words_of_neither_type(name: str, seed: int) -> None:
    task, pairs = GYM[name], causal_gym(60, name=name, seed=seed)
    control = causal_gym(60, name=name, seed=seed, control=True)
    held_out = causal_gym(60, name=name, seed=seed, control=True, part="eval")
    means: dict[str, set[object]] = {one: set() for one in task.types}
    for pair, other in zip(pairs, control, strict=True):
        assert (pair.clean, pair.corrupted) == (other.clean, other.corrupted)
        for (_, label), (_, instead) in zip(sides(pair), sides(other), strict=True):
            means[kind(task, label)].add(instead)
    assert [len(some) for some in means.values()] == [1, 1]
    one, two = (str(some.pop()) for some in means.values())
    assert one != two
    assert {one.strip(), two.strip()} <= set(lexicon.WORDS)
    assert {one, two}.isdisjoint(label for some in task.labels.values() for label in some)
    said = {word for slot in task.slots for some in task.lists(slot) for filler in some for word in filler.split()}
    assert said.isdisjoint({one.strip(), two.strip(), one.strip() + "s", two.strip() + "s"})
    assert {label for pair in held_out for label in (*pair.answers, *pair.wrong)} == {one, two}
    assert control.made_by["labels"] == {task.types[0]: [one], task.types[1]: [two]}


def test_seeds_draw_controls_of_their_own() -> None:
    drawn = {frozenset(causal_gym(1, seed=seed, control=True)[0].answers) for seed in range(12)}
    assert len(drawn) > 6


def test_what_stands_in_front() -> None:
    bare = causal_gym(20, name="cleft", seed=2, before=())
    assert "opening" not in bare.roles
    for before, role in ((OPENINGS, True), (("<|endoftext|>",), True), (("  ",), False)):
        for pair, plain in zip(causal_gym(20, name="cleft", seed=2, before=before), bare, strict=True):
            for (prompt, _), (other, _) in zip(sides(pair), sides(plain), strict=True):
                assert str(prompt.text).endswith(str(other.text))
                assert ("opening" in prompt.roles) == role
                for region in other.roles:
                    cut = str(prompt.text)[slice(*prompt.roles[region])]
                    assert cut == str(other.text)[slice(*other.roles[region])]
            assert pair.clean.roles.get("opening") == pair.corrupted.roles.get("opening")


def test_refusals(word_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="n=0: at least one pair is needed"):
        causal_gym(0)
    with pytest.raises(UnknownNameError, match=r"unknown task 'clefts' of causal_gym; did you mean 'cleft' or 'cleft_mod'\?"):
        causal_gym(name="clefts")
    with pytest.raises(UnknownNameError, match=r"unknown part 'test' of causal_gym.*\(known: all, train, eval\)"):
        causal_gym(part="test")
    with pytest.raises(AnswerError, match="task 'garden_npz_obj' needs labels that are one token; this tokenizer writes"):
        causal_gym(name="garden_npz_obj", tokenizer=word_tokenizer(without=[","]))


def test_make_takes_the_name_of_a_task_too() -> None:
    assert tasks.make("causal_gym", 4, seed=2, name="cleft") == causal_gym(4, seed=2, name="cleft")


def test_labels_that_are_several_tokens_are_left_out(word_tokenizer: Any) -> None:
    pairs = causal_gym(40, seed=1, tokenizer=word_tokenizer(without=["has"]))
    assert {label for pair in pairs for label in (*pair.answers, *pair.wrong)} == {" is", " was", " are", " were"}


TASK = GymTask(
    "demo", "a group", "what it asks", "{who}{negation} {verb} the {thing}",
    labels={"yes": (" some",), "no": (" any", " much")},
    varies={"negation": {"yes": ("",), "no": (" never", " rarely")}},
    free={"who": ("Ada", "Max"), "verb": ("ate", "sold"), "thing": ("soup", "coat")},
    matched=(("verb", "thing"),),
)  # fmt: skip


def test_a_task_of_your_own() -> None:
    assert (TASK.regions, TASK.size, TASK.frames) == (("who+negation", "verb", "the", "thing"), 8, 4)
    prompt = TASK.render(who="Ada", negation="", verb="ate", thing="soup")
    assert prompt == Prompt(
        "Ada ate the soup", {"who+negation": (0, 3), "verb": (4, 7), "the": (8, 11), "thing": (12, 16), "END": (12, 16)}
    )
    pairs = causal_gym(16, name=TASK, seed=0, before=())
    assert {re.sub("Ada|Max| never| rarely", "", str(pair.clean.text)) for pair in pairs} == {" ate the soup", " sold the coat"}
    assert {label for pair in pairs for label in pair.answers} == {" some", " any", " much"}
    with pytest.raises(ValueError, match="n=17: task 'demo' has 16 pairs of part 'all'"):
        causal_gym(17, name=TASK, before=())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": {"yes": (" some",)}}, InputError, r"task 'demo' has the types \['yes'\]; expected two"),
        ({"labels": {"yes": (" some",), "no": (" some",)}}, AnswerError, "has the label ' some' for both types"),
        ({"labels": {"yes": (), "no": (" any",)}}, AnswerError, "expected one at least for each type"),
        ({"template": "{who}{negation} {verb} {it}"}, UnknownNameError, "unknown slot 'thing' of the template of task 'demo'"),
        ({"template": "{who}{negation} {verb} {thing} {it}"}, InputError, "task 'demo' has no fillers for slot 'it'"),
        ({"free": {**TASK.free, "negation": ("x",)}}, InputError, "slot 'negation' of task 'demo' is in varies and in free"),
        ({"free": {**TASK.free, "who": ()}}, InputError, "slot 'who' of task 'demo' has an empty list of fillers"),
        ({"varies": {"negation": {"yes": ("",), "nay": ("",)}}}, InputError, r"has the types \['yes', 'nay'\]; expected"),
        ({"matched": (("verb", "negation"),)}, InputError, "lists of different lengths: {'verb': 2, 'negation': 2}"),
        ({"matched": (("verbs",),)}, UnknownNameError, "unknown slot 'verbs'.*did you mean 'verb'?"),
    ],
)
def test_a_task_that_does_not_hold_together(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(TASK, **change)


def test_rendering_names_what_is_missing_or_too_much() -> None:
    with pytest.raises(UnknownNameError, match="unknown filler 'thing' given to task 'demo'"):
        TASK.render(who="Ada", negation="", verb="ate")
    with pytest.raises(UnknownNameError, match="unknown slot 'when' of task 'demo'"):
        TASK.render(who="Ada", negation="", verb="ate", thing="soup", when="now")
    alone = replace(TASK, template="{who} {negation} {verb} the {thing}")
    with pytest.raises(InputError, match="region 'negation' has no words in 'Ada  ate the soup'"):
        alone.render(who="Ada", negation="", verb="ate", thing="soup")


def as_original(task: GymTask) -> dict[str, Any]:
    """A task in the original's format, which draws together what has one head."""
    heads = {slot: f"h{k}.{slot}" for k, group in enumerate(task.matched) for slot in group if slot in task.free}
    template = re.sub(r"\{([^{}]+)\}", lambda found: "{" + heads.get(found[1], found[1]) + "}", task.template)
    variables = {heads.get(slot, slot): list(some) for slot, some in task.free.items()}
    by_type = {slot: {one: list(some) for one, some in by.items()} for slot, by in task.varies.items()}
    return {
        "templates": [template], "label": list(task.varies), "result_prepend_space": False,
        "labels": {one: list(some) for one, some in task.labels.items()}, "variables": variables | by_type,
    }  # fmt: skip


def test_what_is_written_in_the_originals_format_is_read_back(tmp_path: Path) -> None:
    """Tasks that match no slot of the type: the original has no way to say so."""
    (tmp_path / "own.json").write_text(json.dumps({name: as_original(task) for name, task in GYM.items()}))
    found = read_gym(tmp_path / "own.json")
    assert list(found) == list(GYM)
    same = 0
    for name, task in GYM.items():
        again = found[name]
        assert (again.group, again.description, again.labels) == (task.group, task.description, task.labels)
        assert again.varies == task.varies
        if not any(slot in task.varies for group in task.matched for slot in group):
            same += 1
            one, other = (
                [(pair.clean.text, pair.corrupted.text, pair.answers) for pair in causal_gym(20, name=made, seed=7)]
                for made in (task, again)
            )
            assert one == other
    assert same == 29 - 6  # those whose subject has two numbers


def test_a_file_of_templates_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(
        json.dumps(
            {
                "tides": {
                    "source": "nowhere",
                    "templates": ["The {sea}{when} {act.verb} the {act.thing}", "{sea}{when}"],
                    "label": "when",
                    "result_prepend_space": True,
                    "labels": {"ebb": ["again"], "flood": ["now", "soon"]},
                    "variables": {
                        "sea": ["ocean", "lake"],
                        "when": {"ebb": [""], "flood": [" will"]},
                        "act.verb": ["carry", "hide"],
                        "act.thing": ["boats", "stones"],
                        "unused": ["x"],
                    },
                }
            }
        )
    )
    first, second = read_gym(tmp_path / "two.json").values()
    assert (first.name, second.name) == ("tides-0", "tides-1")
    assert first.labels == {"ebb": (" again",), "flood": (" now", " soon")}
    assert first.matched == (("act.verb", "act.thing"),)
    assert first.regions == ("The", "sea+when", "act.verb", "the", "act.thing")
    assert (first.group, first.free["sea"]) == ("", ("ocean", "lake"))
    assert (second.slots, second.regions) == (("sea", "when"), ("sea+when",))
    texts = {str(pair.clean.text) for pair in causal_gym(8, name=first, before=())}
    assert texts == {
        f"The {sea}{will} {rest}"
        for sea in ("ocean", "lake")
        for will in ("", " will")
        for rest in ("carry the boats", "hide the stones")
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "own.json is no JSON"),
        ("[]", "own.json holds a list; expected an object of tasks by name"),
        ('{"a": 1}', "task 'a' is a int; expected an object"),
        ('{"a": {"templates": ["{x}"], "label": "x", "labels": {}}}', "task 'a' has labels={}"),
        (
            '{"a": {"templates": ["{y}"], "label": "x", "labels": {"p": ["a"], "q": ["b"]}, "variables": {"x": {}}}}',
            "task 'a' has no variable 'y', which its template '{y}' names",
        ),
        (
            '{"a": {"templates": ["{x}"], "label": "x", "labels": {"p": ["a"], "q": ["b"]}, "variables": {"x": ["c"]}}}',
            "task 'a', variable 'x': a list; expected fillers by type",
        ),
        (
            '{"a": {"templates": ["{x}"], "label": "y", "labels": {"p": ["a"], "q": ["b"]}, "variables": {"x": {"p": ["c"]}}}}',
            "task 'a', variable 'x': a dict; expected fillers in one list",
        ),
    ],
)
def test_what_is_no_file_of_templates(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_gym(tmp_path / "own.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_gym, read_gym_pairs):
        with pytest.raises(InputError, match=r"there is no file .*none\.json; expected"):
            read(tmp_path / "none.json")


ROWS: list[dict[str, Any]] = [
    {
        "base": ["<|endoftext|>The", " cat", " who was", " fed", " fish"],
        "src": ["<|endoftext|>The", " cat", "", " fed", " fish"],
        "base_type": "rr", "src_type": "mv", "base_label": " by", "src_label": ".", "task": "fed",
    },
    {
        "base": ["<|endoftext|>", "While", " the", " sea"], "src": ["<|endoftext|>", "", "The", " sea"],
        "base_type": "a", "src_type": "b", "base_label": ",", "src_label": ".", "task": "sea",
    },
    {
        "base": ["<|endoftext|>The", " dog", "", " fed", " fish"],
        "src": ["<|endoftext|>The", " dog", " that was", " fed", " fish"],
        "base_type": "mv", "src_type": "rr", "base_label": ".", "src_label": " by", "task": "fed",
    },
]  # fmt: skip


@pytest.mark.parametrize("lines", [False, True])
def test_sampled_pairs(lines: bool, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n" if lines else json.dumps(ROWS, indent=2))
    found = read_gym_pairs(file)
    assert {name: len(pairs) for name, pairs in found.items()} == {"fed": 2, "sea": 1}
    first, second = found["fed"]
    assert first.corrupted == Prompt(
        "The cat who was fed fish", {"0": (0, 3), "1+2": (4, 15), "3": (16, 19), "4": (20, 24), "END": (20, 24)}
    )
    assert first.clean.text == "The cat fed fish"
    assert first.clean.roles["1+2"] == (4, 7)
    assert (first.answers, first.wrong, first.template) == ((".",), (" by",), "causal_gym/fed")
    assert (second.answers, second.corrupted.text) == ((" by",), "The dog fed fish")
    assert found["fed"].roles == ("0", "1+2", "3", "4", "END")
    [pair] = found["sea"]
    assert pair.corrupted == Prompt("While the sea", {"1+2": (0, 9), "3": (10, 13), "END": (10, 13)})
    assert pair.clean == Prompt("The sea", {"1+2": (0, 3), "3": (4, 7), "END": (4, 7)})
    begun = read_gym_pairs(file, before="<|endoftext|>")["sea"][0].clean
    assert begun == Prompt("<|endoftext|>The sea", {"opening": (0, 13), "1+2": (13, 16), "3": (17, 20), "END": (17, 20)})


def test_our_pairs_survive_the_originals_format(tmp_path: Path) -> None:
    """Spans that are cut at our regions say the same sentences, labels and regions."""
    pairs = causal_gym(10, name="filler_gap_pp", seed=3, before=())
    regions = GYM["filler_gap_pp"].regions

    def spans(prompt: Prompt) -> list[str]:
        cut = [str(prompt.text)[slice(*prompt.roles[region])] for region in regions]
        return ["<|endoftext|>" + cut[0], *(" " + one for one in cut[1:])]

    rows = [
        {
            "base": spans(pair.corrupted), "src": spans(pair.clean), "base_label": pair.wrong[0], "src_label": pair.answers[0],
            "base_type": "x", "src_type": "y", "task": "filler_gap_pp",
        }
        for pair in pairs
    ]  # fmt: skip
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    for pair, again in zip(pairs, read_gym_pairs(tmp_path / "dev.json")["filler_gap_pp"], strict=True):
        for (prompt, label), (other, same) in zip(sides(pair), sides(again), strict=True):
            assert (prompt.text, label) == (other.text, same)
            assert list(prompt.roles.values()) == list(other.roles.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src_label": None}, "pairs.json, pair 1 lacks src_label; expected a pair of CausalGym"),
        ({"src": ["a"]}, "pairs.json, pair 1 has 5 spans in base and 1 in src; expected as many"),
        ({"src": ["a"], "base": ["b"]}, "pairs of task 'fed' have [1, 5] spans; expected one number of them"),
    ],
)
def test_what_is_no_sampled_pair(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {name: value for name, value in (ROWS[0] | change).items() if value is not None}
    (tmp_path / "pairs.json").write_text(json.dumps([ROWS[0], row]))
    with pytest.raises(InputError, match=re.escape(message)):
        read_gym_pairs(tmp_path / "pairs.json")


def test_lines_that_are_no_objects(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"base": []\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: no JSON"):
        read_gym_pairs(tmp_path / "a.jsonl")
    (tmp_path / "b.json").write_text("[3]")
    with pytest.raises(InputError, match=r"b\.json, pair 0: a int; expected an object"):
        read_gym_pairs(tmp_path / "b.json")


def test_labels_are_single_tokens_of_a_real_tokenizer(loaded_smollm2: interp.Model) -> None:
    tokenizer = loaded_smollm2.tokenizer
    for name, task in GYM.items():
        for control in (False, True):
            pairs = causal_gym(2, name=name, control=control, tokenizer=tokenizer)
            if not control:
                assert pairs.made_by["labels"] == causal_gym(2, name=name).made_by["labels"], name
            for label in (*pairs[0].answers, *pairs[0].wrong):
                [token] = lexicon.following(str(label), tokenizer)
                assert tokenizer.decode([token]) == label
        assert all(len(lexicon.following(label, tokenizer)) == 1 for some in task.labels.values() for label in some)


def test_a_grid_of_regions_on_a_real_model(loaded_smollm2: interp.Model) -> None:
    """Regions of unequal numbers of tokens can be swept; before the first that differs nothing can change, and the last
    residual at the last token is all that is read."""
    pairs = causal_gym(4, name="garden_npz_obj", seed=5, tokenizer=loaded_smollm2.tokenizer)
    regions = list(pairs.roles[:-1])
    run = interp.patch(loaded_smollm2, pairs, interp.grid("resid_post", layer=[0, 29], position=regions))
    recovery = interp.effects.recovery(run).sel(metric="logit_diff")
    assert recovery.sizes["position"] == len(regions)
    assert abs(recovery.isel(position=slice(0, regions.index("verb+comma")))).max() < 1e-4
    assert float(recovery.sel(layer=29).isel(position=-1)) == pytest.approx(1, abs=1e-3)
