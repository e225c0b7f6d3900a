"""A task with its causal models: what is drawn, how it is said, what the answer is, and which algorithms could give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp.errors import UnknownNameError
from interp.prompts import Pairs, Prompt
from interp.tasks.causal_model.model import CausalModel
from interp.tasks.causal_model.rows import Balance, Counterfactuals, Counterpart, Sampler, counterfactuals

PARTS = ("train", "test")


@dataclass(frozen=True, eq=False, repr=False)
class CausalTask:
    """A task.

    Args:
        name: in titles.
        models: rival algorithms by name, the first the default; all take the same inputs and give the same output.
        sample: draws inputs, by part: ``"train"`` and ``"test"`` have no words in common where there are words.
        render: one row of inputs to its prompt.
        answer: an output to what follows the prompt.
        variables: of each model, those that are looked for by default.
        false: a model and a variable of it that the task has no need of, so that no network has reason to hold it.
        choices: of base, source and label, the outputs among which the answer is chosen; by default every value.
        named: the words of a row that held-out parts do not share.
        template: the template of a row.
        source: draws sources for bases, where these have to fit; by default they are drawn as bases are.
        false_source: the same for ``false``, whose labels should not be known of the base alone; by default ``source``.
    """

    name: str
    models: Mapping[str, CausalModel]
    sample: Mapping[str, Sampler]
    render: Callable[[Mapping[str, Any]], Prompt]
    answer: Callable[[Any], Any]
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    false: tuple[CausalModel, str] | None = None
    choices: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Sequence[Any]] | None = None
    named: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    template: Callable[[Mapping[str, Any]], str] | None = None
    source: Counterpart | None = None
    false_source: Counterpart | None = None

    @property
    def model(self) -> CausalModel:
        """The first of its models."""
        return next(iter(self.models.values()))

    def counterfactuals(
        self,
        n: int,
        variables: Sequence[str] | None = None,
        *,
        seed: int,
        model: str | None = None,
        part: str = "train",
        balance: Balance = "flip",
        swapped: Any = "alone+all",
    ) -> Counterfactuals:
        """Rows of interchange experiments; see :func:`interp.tasks.causal_model.counterfactuals`.

        Args:
            variables: by default those that are looked for in the model.
            model: by name.
            part: ``"train"`` or ``"test"``, whose words differ.

        Raises:
            UnknownNameError: no such model, part or variable.
        """
        which = next(iter(self.models)) if model is None else model
        self.require(which)
        sampler = self._sampler(part)
        names = self.variables[which] if variables is None else tuple(variables)
        words: dict[str, Any] = {"seed": seed, "balance": balance, "swapped": swapped, "source": self.source, "task": self}
        made_by = {"part": part, "model": which}
        return counterfactuals(self.models[which], n, names, sample=sampler, made_by=made_by, **words)

    def require(self, model: str) -> None:
        """Raise ``UnknownNameError`` unless there is a rival of that name."""
        if model not in self.models:
            raise UnknownNameError("model", model, self.models, f"of {self.name}")

    def falsely(self, n: int, *, seed: int, part: str = "train") -> Counterfactuals:
        """Rows of a hypothesis that is known to be false.

        Raises:
            UnknownNameError: the task names none.
        """
        if self.false is None:
            raise UnknownNameError("false hypothesis", self.name, (), why="the task names none")
        model, variable = self.false
        source = self.false_source or self.source
        words: dict[str, Any] = {"sample": self._sampler(part), "seed": seed, "source": source, "task": self}
        return counterfactuals(model, n, (variable,), made_by={"part": part, "model": "false"}, **words)

    def plain(self, n: int, *, seed: int, part: str = "train") -> Pairs:
        """Prompts with their own answers, as they come: whether a network does the task at all (:func:`interp.check`)."""
        return self.counterfactuals(n, seed=seed, part=part, balance="natural").with_label("source").pairs()

    def _sampler(self, part: str) -> Sampler:
        if part not in self.sample:
            raise UnknownNameError("part", part, self.sample, f"of {self.name}")
        return self.sample[part]

    def __repr__(self) -> str:
        return f"CausalTask({self.name}: {', '.join(self.models)})"
