"""Which class a checkpoint is loaded with: the one that it was saved from.

    >>> class_of(locate("path/to/bert")).__name__                                           # doctest: +SKIP
    'BertForMaskedLM'

``architectures`` in ``config.json`` names it; transformers has it, or the repository brings it along as code of its own, which
runs only if the user says so. Where it is not named, the class that all weights fit, and that lacks none, is taken.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from interp.errors import LoadError
from interp.models.sources import Source, failed


def class_of(source: Source, *, trust_remote_code: bool = False) -> Any:
    """A class with ``from_pretrained``.

    Raises:
        LoadError: it needs remote code, another library, or cannot be told; in one line.
    """
    if source.packed:
        return _of_packed(source)
    said = source.config
    if "_class_name" in said:
        return _of_diffusers(source, said["_class_name"])
    named = _named(said)
    code = {auto: str(reference) for auto, reference in dict(said.get("auto_map") or {}).items()}
    remote = {auto: reference for auto, reference in code.items() if auto.startswith("AutoModel")}
    if code and not (trust_remote_code or _known(said.get("model_type"))):
        raise LoadError(_untrusted(source, code))
    if remote and trust_remote_code:
        return _of_remote(source, remote, named)
    config = _config(source, trust_remote_code)
    candidates = _candidates(config)
    found = candidates.get(named) or _in_transformers(named)
    return found or _by_weights(source, config, candidates, named)


def _named(said: Mapping[str, Any]) -> str:
    """The architecture that a configuration names, the first if it names several; empty if it names none."""
    found = said.get("architectures") or ""
    return str(found[0] if isinstance(found, list) else found)


# classes of transformers


def _config(source: Source, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    packed = {"gguf_file": source.where.name} if source.packed and not isinstance(source.where, str) else {}
    try:
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code, **packed, **source.hub)
    except Exception as error:  # whatever a library raises for a file that it cannot read
        raise failed(source, error) from error


def _of_packed(source: Source) -> Any:
    from transformers import AutoModelForCausalLM

    found = _in_transformers(_named(vars(_config(source, False))))
    return found or AutoModelForCausalLM


def _in_transformers(name: str) -> Any:
    import transformers

    found = getattr(transformers, name, None) if name else None
    return found if hasattr(found, "from_pretrained") and hasattr(found, "config_class") else None


def _known(model_type: str | None) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _candidates(config: Any) -> dict[str, Any]:
    """Every class that some Auto class has for a configuration, by name; those that a user registered among them."""
    from transformers.models.auto import modeling_auto

    found: dict[str, Any] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("_MAPPING") and type(config) in mapping:
            classes = mapping[type(config)]
            found |= {kind.__name__: kind for kind in (classes if isinstance(classes, tuple) else (classes,))}
    return found


def _by_weights(source: Source, config: Any, candidates: Mapping[str, Any], named: str) -> Any:
    """The class that the weights fit, saying so."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    lacking = f"names {named}, which transformers does not have" if named else "does not say its architecture"
    fits = {name: taken for name, kind in candidates.items() if (taken := _taken(source, kind))}
    fits = {name: taken for name, taken in fits.items() if taken == max(fits.values())}  # T5's encoder ignores its decoder
    bare = MODEL_MAPPING.get(type(config), None)
    heads = [name for name in fits if candidates[name] is not bare] or list(fits)  # a tied head has no weights of its own
    if len(heads) == 1:
        said = f"{source.where}: config.json {lacking}; its weights fit {heads[0]}, so that is loaded"
        warnings.warn(said, RuntimeWarning, stacklevel=5)
        return candidates[heads[0]]
    which = ", ".join(heads) if heads else f"none of {', '.join(candidates) or 'the classes of its model type'}"
    raise LoadError(
        f"{source.where}: config.json {lacking}, and its weights fit {which}; write the class into its 'architectures', or "
        "load the module with its class and pass that"
    )


def _taken(source: Source, kind: Any) -> int:
    """How many numbers of a checkpoint a class takes; 0 if it lacks some, or has no place for some. Read on the meta device."""
    try:
        with quiet():
            module, report = kind.from_pretrained(source.folder, device_map="meta", output_loading_info=True, **source.hub)
    except Exception:  # a class that cannot be made from this configuration does not fit
        return 0
    return 0 if any(report.values()) else sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' table of weights that do not fit: what is wrong is said in one line by whoever asks."""
    logger = logging.getLogger("transformers.modeling_utils")

    def plain(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(plain)
    try:
        yield
    finally:
        logger.removeFilter(plain)


# classes of others


def _untrusted(source: Source, remote: Mapping[str, str]) -> str:
    code = sorted({reference.rpartition(".")[0] for reference in remote.values()})
    files = ", ".join(f"{module.rpartition('--')[2]}.py{_of(module)}" for module in code)
    return (
        f"{source.where} brings its own Python code ({files}), which can do anything; read it, and if you trust it, load with "
        "trust_remote_code=True"
    )


def _of(module: str) -> str:
    repository = module.partition("--")[0] if "--" in module else ""
    return f" of {repository}" if repository else ""


def _of_remote(source: Source, remote: Mapping[str, str], named: str) -> Any:
    """The class of the repository's own code that ``architectures`` names, or the only one."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    references = {reference.rpartition(".")[2]: reference for reference in remote.values()}
    chosen = named if named in references else None
    if chosen is None and (found := _in_transformers(named)) is not None:
        return found
    if chosen is None and len(references) == 1:
        chosen = next(iter(references))
    if chosen is None:
        raise LoadError(
            f"{source.where}: its own code has the classes {', '.join(references)}, and 'architectures' in config.json names "
            "none of them"
        )
    try:
        return get_class_from_dynamic_module(references[chosen], str(source.folder), **source.hub)
    except Exception as error:  # the repository's code runs here
        raise failed(source, error) from error


def _of_diffusers(source: Source, name: str) -> Any:
    try:
        diffusers = importlib.import_module("diffusers")
    except ImportError as error:
        raise LoadError(
            f"{source.where} is a {name} of diffusers, which is not installed; pip install 'interp-workbench[diffusion]'"
        ) from error
    found = getattr(diffusers, name, None)
    if not hasattr(found, "from_pretrained") or not hasattr(found, "parameters"):
        raise LoadError(f"{source.where}: config.json names {name}, which is no model of diffusers {diffusers.__version__}")
    return found
