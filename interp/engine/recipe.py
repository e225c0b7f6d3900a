"""The recipe of a run: all that is needed to make the same call again, as files that stand beside its numbers.

    >>> files = recorded("patch", model, encoded, where=where, metric="logit_diff")          # doctest: +SKIP
    >>> sorted(files)                                                                        # doctest: +SKIP
    ['recipe.json', 'recipe.safetensors']
    >>> Recipe.of(files).call, Recipe.of(files).unwritten                                    # doctest: +SKIP
    ('patch', {})

The JSON holds the call, what the model was loaded from, the pairs themselves and the arguments; tensors among them (steering
vectors, rotations, pictures) are in the other file, which is there where there are any. What no file can hold, a function above
all, is named in ``unwritten``: a run with such a part is made again only by someone who passes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from interp.circuits import At, Block, Circuit, Coordinates, Edge, Graph
from interp.engine.asked import contrasted, listed
from interp.errors import LoadError, StoreError
from interp.interventions.files import check_format, parsed, seal, tensors_of
from interp.interventions.reading import Reader
from interp.interventions.writing import Writer
from interp.models import Encoded, Model, load
from interp.models.origin import why_not
from interp.prompts import Pairs

FORMAT = 1
JSON, TENSORS = "recipe.json", "recipe.safetensors"
ASIDE = ("model", "pairs", "store", "name", "tags", "progress")
"""Arguments of a sweep that no recipe has among its others."""
_KNOWN = (Edge, Circuit, Graph, Block, Coordinates, At)
_NEEDED = ("call", "model", "pairs", "pairs_digest", "bos", "plain", "arguments", "unwritten")


def recorded(call: str, model: Model, pairs: Encoded, **arguments: Any) -> dict[str, bytes]:
    """A recipe, as files by name.

    Args:
        call: the function that was called, such as ``"patch"``.
        model: as it was then; what :meth:`interp.Model.edited` has in force on it becomes part of ``given``.
        pairs: what was given as pairs or prompts, encoded.
        arguments: as they were given; of them :func:`others` are kept.
    """
    arguments = others(arguments)
    if model.background is not None:
        given = arguments.get("given")
        standing = [] if given is None or given == [] else listed(given, "given")
        arguments = arguments | {"given": [model.background, *standing]}
    writer, unwritten = _Writer(_KNOWN, {"model": model}), {}
    written: dict[str, Any] = {}
    for name, value in ({"pairs": pairs.pairs} | arguments).items():
        try:
            written[name] = writer.whole(value, name)
        except StoreError as error:
            unwritten[name] = str(error)
    found = {
        "call": call,
        "model": writer.describe(model, "model"),
        "bos": pairs.asked,
        "plain": pairs.pairs.task == "prompts" and not contrasted(pairs),
        "pairs": written.pop("pairs", None),
        "pairs_digest": pairs.pairs.digest,
        "arguments": written,
        "unwritten": unwritten,
    }
    sealed = {"format": FORMAT, **found, "sha256": seal(found, writer.tensors)}
    files = {JSON: json.dumps(sealed, ensure_ascii=False).encode()}
    return files | ({TENSORS: save(writer.tensors)} if writer.tensors else {})


def others(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that say what was done, beside the model and the prompts."""
    return {name: value for name, value in arguments.items() if name not in ASIDE}


@dataclass(frozen=True, eq=False)
class Recipe:
    """A recipe as it was read; nothing is loaded or made yet."""

    call: str
    model: Mapping[str, Any]
    """``name``, ``digest``, ``dtype`` and ``device`` of the model, ``load`` as written, and ``why_not``."""
    pairs: Any
    pairs_digest: str
    bos: Any
    plain: bool
    """Whether prompts were given, and no pairs."""
    arguments: Mapping[str, Any]
    unwritten: Mapping[str, str]
    """Arguments that no file holds, and why."""
    tensors: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Recipe:
        """From the files beside a run.

        Raises:
            StoreError: there is none, or it is damaged or of another format.
        """
        if JSON not in files:
            raise StoreError(
                f"it is kept without {JSON}, so it cannot be made again: a sweep that is called with store=… keeps one, a "
                "result that is saved later has none; make the same call with store= this store, and the run gets its recipe"
            )
        data = parsed(files[JSON], JSON)
        if not isinstance(data, dict) or not {"format", "sha256"} <= data.keys():
            raise StoreError(f"{JSON} is no recipe")
        check_format(data.pop("format"), JSON)
        tensors, expected = tensors_of(files[TENSORS], TENSORS) if TENSORS in files else {}, data.pop("sha256")
        if seal(data, tensors) != expected or set(data) != set(_NEEDED):
            raise StoreError(f"{JSON} is damaged: it is not what was written (its sha256 is another)")
        return cls(**data, tensors=tensors)

    def load(self, device: str | torch.device | None = None, *, progress: bool | None = None) -> Model:
        """The model, loaded as it was.

        Args:
            device: another than it was on then.

        Raises:
            StoreError: it cannot be loaded again by itself, or its weights are others now.
            LoadError: its files are not there.
        """
        return _loaded(_Reader(self.tensors, what=JSON, known=_KNOWN), self.model, "model", device, progress)

    def check(self, model: Model) -> None:
        """Raise ``StoreError`` unless a model computes what this one did, by its digest."""
        _check_digest(self.model, model)

    def made(self, model: Model, *, kinds: Iterable[type] = (), **unwritten: Any) -> tuple[Any, dict[str, Any]]:
        """Pairs and other arguments, ready to be called with.

        Args:
            kinds: classes of your own among them.
            unwritten: what no file holds.

        Raises:
            StoreError: something is missing, not asked for, or other pairs than they were.
        """
        if set(unwritten) != set(self.unwritten):
            raise self._unlike(unwritten)
        reader = _Reader(self.tensors, what=JSON, kinds=kinds, known=_KNOWN, named={"model": model})
        pairs = unwritten.pop("pairs") if "pairs" in unwritten else reader.read(self.pairs, "pairs")
        arguments = {name: reader.read(value, name) for name, value in self.arguments.items()} | unwritten
        if not isinstance(pairs, Pairs) or pairs.digest != self.pairs_digest:
            raise StoreError(f"pairs are {pairs!r}, whose digest is not {self.pairs_digest}, that of the pairs of the run")
        if self.plain:
            return [pair.clean for pair in pairs], arguments
        return model.encode(pairs, bos=self.bos), arguments

    def _unlike(self, given: Mapping[str, Any]) -> StoreError:
        lacking = {name: why for name, why in self.unwritten.items() if name not in given}
        if lacking:
            pass_ = ", ".join(f"{name}=…" for name in self.unwritten)
            return StoreError(f"it was made with what no file holds: {'; '.join(lacking.values())}; pass it again: {pass_}")
        known = ", ".join(self.unwritten) or "none"
        spare = ", ".join(sorted(set(given) - set(self.unwritten)))
        return StoreError(
            f"{spare} cannot be given: the run is made again as it was, and missing of it are {known}; for another run call "
            f"interp.{self.call} itself"
        )


class _Writer(Writer):
    def other(self, value: Any, path: str) -> Any:
        """Models, of which another one's activations are a source."""
        if isinstance(value, Model):
            self._names[id(value)] = value, path
            return {"Model": self.describe(value, path)}
        return super().other(value, path)

    def describe(self, model: Model, path: str) -> dict[str, Any]:
        """What a model is, and how it was loaded."""
        try:
            reason = model.origin.why_not or model.unwritten
            arguments = self.write(dict(model.origin.arguments), f"{path}.load")
        except StoreError as error:
            arguments, reason = None, str(error)
        known = {"name": model.name, "digest": model.digest, "dtype": str(model.dtype).removeprefix("torch.")}
        return known | {"device": str(model.device), "load": None if reason else arguments, "why_not": reason}


class _Reader(Reader):
    def other(self, kind: str, content: Any, path: str) -> Any:
        if kind == "Model":
            self._made[path] = _loaded(self, content, path, None, False)
            return self._made[path]
        return super().other(kind, content, path)


def _loaded(
    reader: Reader, described: Mapping[str, Any], path: str, device: str | torch.device | None, progress: bool | None
) -> Model:
    name = described["name"]
    arguments = None if described["load"] is None else reader.read(described["load"], f"{path}.load")
    reason = described["why_not"] if arguments is None else why_not(arguments)
    if reason or arguments is None:
        raise StoreError(
            f"model {name!r} is not loaded again by itself: {reason}; load it as you did then, and pass it: model=…"
        )
    if device is None and "device_map" not in arguments:
        device = str(described["device"])
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise LoadError(f"model {name!r} was on {device}, and no GPU is here; say where else: device='cpu'")
    if device is not None:
        arguments.pop("device_map", None)
    model = load(arguments.pop("model"), device=device, progress=progress, **arguments)
    _check_digest(described, model)
    return model


def _check_digest(described: Mapping[str, Any], model: Model) -> None:
    if described["digest"] != model.digest:
        raise StoreError(
            f"model {described['name']!r} had the digest {described['digest']}, but this one has {model.digest}: its weights, "
            "its configuration or what was set on its modules are others, or are known in another way (a live model's by all "
            "that it holds, a loaded one's by its files); pass it as it was then: model=…"
        )
