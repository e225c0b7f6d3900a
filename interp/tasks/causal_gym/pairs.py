"""Minimal pairs of the gym, in both directions, for the task itself and for its control."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice, product
from typing import Any

from interp.errors import AnswerError, UnknownNameError
from interp.prompts import Pair, Pairs
from interp.protocols import Tokenizer, spelled
from interp.tasks import lexicon
from interp.tasks.causal_gym import agreement, garden_path, licensing, long_distance, syntactic_state
from interp.tasks.causal_gym.task import Contrast, GymTask, opened
from interp.tasks.causal_gym.words import OPENINGS
from interp.tasks.draw import Draw

#: The tasks by name, group by group.
GYM: Mapping[str, GymTask] = {
    task.name: task for room in (agreement, licensing, garden_path, syntactic_state, long_distance) for task in room.TASKS
}

GYM_GROUPS: tuple[str, ...] = tuple(dict.fromkeys(task.group for task in GYM.values()))

PARTS = ("all", "train", "eval")

_EVAL_SHARE = 0.3
_FEW_FRAMES = 30
_TRIES = 5000


def gym_tasks(group: str | None = None) -> tuple[GymTask, ...]:
    """The tasks of a group, or all of them.

    >>> [task.name for task in gym_tasks("agreement")]
    ['agr_gender', 'agr_sv_num_subj-relc', 'agr_sv_num_obj-relc', 'agr_sv_num_pp']

    Raises:
        UnknownNameError: no such group.
    """
    if group is not None and group not in GYM_GROUPS:
        raise UnknownNameError("group", group, GYM_GROUPS, "of causal_gym")
    return tuple(task for task in GYM.values() if group in (None, task.group))


def causal_gym(
    n: int = 64,
    *,
    seed: int = 0,
    name: str | GymTask = "agr_sv_num_pp",
    part: str = "all",
    control: bool = False,
    before: Sequence[str] = OPENINGS,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Minimal pairs of one task, each followed by the same pair in the other direction.

    >>> one, other = causal_gym(2, name="garden_npz_obj", seed=1, before=())
    >>> one.corrupted.text, one.wrong, one.clean.text, one.answers
    ('Although the lawyer attacked the nurse', (',',), 'Although the lawyer attacked, the nurse', (' was',))
    >>> other == one.swap()
    True

    The corrupted prompt is the base and the clean one the source: the right answer is the label of the source's type, which an
    exchange of the type brings about in the base. Both have the same roles in the same order: opening (a sentence that has
    nothing to do with it), the regions (``GYM[name].regions``), and END, the last word. A region may have more tokens in one
    prompt than in the other.

    Without the opening, types that differ in their first word would be hard to tell for a model that puts no token of its own
    in front: it reads little into the first token, whatever that is.

    Args:
        n: number of pairs. The first pairs do not depend on it, and no contrast comes twice.
        seed: chooses everything.
        name: one of ``GYM``, or a task of your own or of a file (:func:`interp.tasks.read_gym`).
        part: ``"train"`` and ``"eval"`` have no sentence in common, whatever their seeds; ``"all"`` has those of both. A pair
            belongs to the part of what its two sentences share, or, where there are fewer than 30 choices of that, to the
            part that both its sentences belong to; what stands in front of it does not count. Three in ten are for ``"eval"``.
        control: the same prompts, with two words that have nothing to do with the task in the place of its labels, one for each
            type. The seed draws them: the same two for all pairs, ``"train"`` and ``"eval"``.
        before: what stands in front, one of these for each contrast; ``()`` for nothing, ``("<|endoftext|>",)`` for what the
            original has.
        tokenizer: if given, labels are single tokens of it (others are left out).

    Returns:
        Pairs whose ``template`` reads like "causal_gym/cleft" and whose entities are what fills the slot with the most fillers.

    Raises:
        UnknownNameError: no such task or part.
        AnswerError: a type has no label that is one token of ``tokenizer``.
        ValueError: n < 1, or the part has fewer pairs than ``n`` asks for.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if isinstance(name, str) and name not in GYM:
        raise UnknownNameError("task", name, GYM, "of causal_gym")
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS, "of causal_gym")
    task = GYM[name] if isinstance(name, str) else name
    labels = _control(task, seed, tokenizer) if control else _labels(task, tokenizer)
    items: list[Pair] = []
    for k, contrast in enumerate(islice(_contrasts(task, seed, part), (n + 1) // 2)):
        pair = _pair(task, contrast, labels, before, Draw(f"causal_gym/{task.name}/label", seed, k))
        items += [pair, pair.swap()]
    if len(items) < n:
        raise ValueError(
            f"n={n}: task {task.name!r} has {len(items)} pairs of part {part!r} that {_TRIES} draws in a row add none to"
        )
    made_by = {
        "task": "causal_gym", "n": n, "seed": seed, "name": task.name, "part": part, "control": control,
        "labels": {kind: list(dict.fromkeys(some)) for kind, some in zip(task.types, zip(*labels, strict=True), strict=True)},
        "regions": list(task.regions),
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record({"before": before} | {s: [o for some in task.lists(s) for o in some] for s in task.slots}),
    }  # fmt: skip
    return Pairs(tuple(items[:n]), task="causal_gym", made_by=made_by)


def _pair(task: GymTask, contrast: Contrast, labels: Sequence[tuple[str, str]], before: Sequence[str], draw: Draw) -> Pair:
    """Base and source; which type is which, which of the labels and what stands in front is drawn."""
    base, source = (0, 1) if draw.below(2) == 0 else (1, 0)
    label = draw.pick(labels)
    opening = draw.pick(before) if before else ""
    prompts = [opened(opening, task.render(**contrast.fillers[kind])) for kind in task.types]
    return Pair(prompts[source], prompts[base], label[source], label[base], f"causal_gym/{task.name}", contrast.entities)


def _contrasts(task: GymTask, seed: int, part: str) -> Iterator[Contrast]:
    """Contrasts of a part without end, none twice; it ends where so many draws in a row bring nothing new."""
    seen: set[tuple[str, ...]] = set()
    since = 0
    for k in count():
        contrast = task.draw(Draw(f"causal_gym/{task.name}", seed, k))
        texts = tuple(str(task.render(**contrast.fillers[kind]).text) for kind in task.types)
        fresh = texts not in seen and not task.repeats(contrast) and len(set(texts)) == 2
        if fresh and (part == "all" or _part(task, contrast, texts) == part):
            seen.add(texts)
            since = 0
            yield contrast
        else:
            since += 1
            if since >= _TRIES:
                return


def _part(task: GymTask, contrast: Contrast, texts: tuple[str, ...]) -> str | None:
    """None for a pair whose sentences belong to different parts."""
    keys = ["/".join(contrast.frame)] if task.frames >= _FEW_FRAMES else list(texts)
    drawn = {"eval" if _share(f"{task.name}/{key}") < _EVAL_SHARE else "train" for key in keys}
    return drawn.pop() if len(drawn) == 1 else None


def _share(text: str) -> float:
    """A number from 0 to 1 that is the text's own, on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def _labels(task: GymTask, tokenizer: Tokenizer | None) -> list[tuple[str, str]]:
    """A label for each type: those at one place of their lists, or any two where the lists have different lengths."""
    one, other = task.labels.values()
    found = list(zip(one, other, strict=True)) if len(one) == len(other) else list(product(one, other))
    single = [pair for pair in found if tokenizer is None or all(_is_token(label, tokenizer) for label in pair)]
    if not single:
        said = {label: spelled(tokenizer, lexicon.following(label, tokenizer)) for label in (*one, *other)} if tokenizer else {}
        raise AnswerError(f"task {task.name!r} needs labels that are one token; this tokenizer writes them as {said}")
    return single


def _is_token(label: str, tokenizer: Tokenizer) -> bool:
    """Whether it is one token behind a word, and reads back."""
    ids = lexicon.following(label, tokenizer)
    return len(ids) == 1 and str(tokenizer.decode(ids)).strip() == label.strip()


def _control(task: GymTask, seed: int, tokenizer: Tokenizer | None) -> list[tuple[str, str]]:
    """Two words that are in no sentence of the task and none of its labels, for all of its pairs."""
    said: Any = [*OPENINGS, task.template, *(label for some in task.labels.values() for label in some)]
    said += [one for slot in task.slots for some in task.lists(slot) for one in some]
    used = {word.strip(",.").lower() for text in said for word in text.split()}
    usable = [word for word in lexicon.WORDS if not used & {word, word + "s"}]
    usable = [word for word in usable if tokenizer is None or lexicon.is_single(word, tokenizer)]
    if len(usable) < 2:
        raise AnswerError(f"{len(usable)} of the lexicon's words are single tokens of this tokenizer; a control needs two")
    one, other = Draw(f"causal_gym/{task.name}/control", seed, 0).distinct(usable, 2)
    return [(" " + one, " " + other)]
