"""The checks of test_nnsight.py, one a line of JSON. Run as a process of its own, because nnsight changes its whole process."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import backend_checks as checks
import torch
from nnsight import CONFIG, NNsight
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling import huggingface
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from interp.interventions import Change, Constant, Intervention
from interp.models import Model, load
from interp.models.backends import nnsight_remote
from interp.models.probe import probe
from interp.sites import Site

Answer = dict[str, Any]


@cache
def local(family: str, seed: int) -> tuple[Model, Model]:
    return checks.both(family, seed, "nnsight")


def sites(family: str, seed: int) -> Answer:
    """What both have holds the same numbers; which components only torch hooks reach, and why."""
    reference, tested = local(family, seed)
    lacking = {site.name for site in reference.sites()} - {site.name for site in tested.sites()}
    reasons = {name: tested.anatomy.why_absent(Site(name)) for name in lacking}
    return {"worst": checks.reads(reference, tested), "lacking": reasons, "probe": tested.probe is not None}


def writes(family: str, seed: int) -> Answer:
    return {"worst": checks.writes(*local(family, seed), seed)}


def own_values(family: str, seed: int) -> Answer:
    return {"worst": {"logits": checks.own_values(local(family, seed)[1])}}


def sweeps(family: str, seed: int) -> Answer:
    return {"worst": checks.sweeps(*local(family, seed), seed)}


def gradients(family: str, seed: int) -> Answer:
    return {"worst": {"z": checks.gradients(*local(family, seed), seed)}}


def untouched(seed: int) -> Answer:
    """The user's module is as it was after loading, after a pass and after one that failed; so is what it computes."""
    network = checks.network("llama", seed)

    def state() -> list[set[str]]:
        return [set(module.__dict__) | {f"{len(module._forward_hooks)} hooks"} for module in network.modules()]

    before, logits = state(), network(checks.IDS).logits
    model = load(network, backend="nnsight")
    states = [state()]
    raised = []
    for change in ({Site("z", layer=0): lambda h: 1 / 0}, {Site("resid_post", layer=0): lambda h: h[:, :-1]}):
        try:
            checks.run(model, [checks.LOGITS], change)
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")
        states.append(state())
    after = checks.run(model, [checks.LOGITS])[checks.LOGITS]
    same = bool(torch.equal(model.module(**model.example).logits, after))
    return {
        "as_before": [found == before for found in states],
        "raised": raised,
        "same": same and bool(torch.equal(network(checks.IDS).logits, logits)),
    }


def wrapped_by_users(seed: int) -> Answer:
    """A module that its user has wrapped already: their traces go on working, and so does every backend."""
    network = checks.network("gpt2", seed)
    logits = network(checks.IDS).logits
    theirs = NNsight(network)
    found = {}
    for backend in ("torch", "nnsight"):
        model = load(network, backend=backend)
        found[backend] = checks.fraction(checks.run(model, [checks.LOGITS])[checks.LOGITS], network(**model.example).logits)
    with theirs.trace(input_ids=checks.IDS):
        theirs.transformer.h[1].output = theirs.transformer.h[1].output * 0
        after = theirs.output.logits.save()
    moved = float((after - logits).abs().max())
    return {"worst": found, "moved": moved, "same": bool(torch.equal(network(checks.IDS).logits, logits))}


def hooks_of_users(seed: int) -> Answer:
    """Hooks on the user's modules stay and run."""
    network, seen = checks.network("gpt2", seed), [0]
    network.transformer.h[0].register_forward_hook(lambda m, args, out: seen.append(1))
    model = load(network, backend="nnsight")
    seen.clear()
    checks.run(model, [checks.LOGITS])
    return {"seen": len(seen), "hooks": len(network.transformer.h[0]._forward_hooks)}


def fired(seed: int) -> Answer:
    """A module that is called twice, and one that never is, refuse to be read."""
    model = load(checks.Twice(), example={"input_ids": checks.IDS % 11}, backend="nnsight")
    raised = {}
    for path in ("embed", "again", "idle"):
        try:
            checks.run(model, [Site("output", path=path)])
            raised[path] = ""
        except Exception as error:
            raised[path] = f"{type(error).__name__}: {error}"
    return {"raised": raised}


# remote


@cache
def server() -> subprocess.Popen[bytes]:
    """The service's side, in a process that does not have this package."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("ndif_server.py")
    return subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


class Service:
    """One model there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.sizes: list[int] = []
        """Bytes of every request."""

    def ask(self, blob: bytes) -> bytes:
        process = server()
        assert process.stdin
        assert process.stdout
        self.sizes.append(len(blob))
        process.stdin.write(json.dumps({"folder": self.folder, "bytes": len(blob)}).encode() + b"\n" + blob)
        process.stdin.flush()
        return process.stdout.read(int.from_bytes(process.stdout.read(8), "big"))

    def runner(self) -> RemoteBackend:
        service = self

        class Piped(RemoteBackend):
            """nnsight's own request and its own reading of the answer, with a pipe for a network."""

            def request(self, request: Any, tracer: Any) -> Any:
                return self.handle(self.parse(service.ask(self._serialize(tracer))))

        CONFIG.APP.REMOTE_LOGGING = False
        return Piped("key", api_key="none")


@cache
def service(family: str, seed: int) -> tuple[Model, Model, Service]:
    network: Any = checks.network(family, seed)
    there = Service(tempfile.mkdtemp())
    network.save_pretrained(there.folder)
    words().save_pretrained(there.folder)
    tested = nnsight_remote.remote(there.folder, words(), family, "model", None, {}, runner=there.runner)
    return load(network, name=family), tested, there


def words() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(checks.VOCAB)}, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<0>", pad_token="<0>", eos_token="<0>")


def remote_sites(family: str, seed: int) -> Answer:
    reference, tested, there = service(family, seed)
    lacking = {site.name for site in reference.sites()} - {site.name for site in tested.sites()}
    reasons = {name: tested.anatomy.why_absent(Site(name)) for name in lacking}
    found = {"worst": checks.reads(reference, tested), "lacking": reasons, "bytes": max(there.sizes)}
    taps = {site: tested.anatomy.taps[site] for site in tested.sites()}
    return found | {
        "taps": {site: reference.anatomy.taps[site] for site in taps} == taps,
        "passes": len(there.sizes),
        "causal": tested.causal,
        "device": [str(tested.device), str(next(tested.module.parameters()).device)],
        "digest": tested.digest,
    }


def remote_writes(family: str, seed: int) -> Answer:
    reference, tested, _ = service(family, seed)
    return {"worst": checks.writes(reference, tested, seed, every=False)}


def remote_sweeps(family: str, seed: int) -> Answer:
    reference, tested, _ = service(family, seed)
    return {"worst": checks.sweeps(reference, tested, seed)}


def remote_interventions(seed: int) -> Answer:
    """Changes of a user's own, with their closures, and constants."""
    from interp.engine import patch

    reference, tested, _ = service("llama", seed)
    weight = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    found = {}
    change = {Site("resid_post", layer=1): lambda h: h + 0.5 * torch.tanh(h * weight.to(h))}
    ours, theirs = (checks._as(tested, reference, [checks.LOGITS], change), checks.run(tested, [checks.LOGITS], change))
    found["closure"] = checks.fraction(theirs[checks.LOGITS], ours[checks.LOGITS])
    edit = Intervention((Change(Site("z", layer=1, head=2), source=Constant(0.3)),))
    values = [patch(model, checks.pairs(seed), edit).value for model in (reference, tested)]
    found["constant"] = float(abs(values[0] - values[1]).max()) / 1e-5
    return {"worst": found}


def remote_probe(seed: int) -> Answer:
    """The laws of the probe run hold there too, when somebody asks."""
    _, tested, there = service("gpt2", seed)
    before = len(there.sizes)
    with torch.no_grad():
        found = probe(tested)
    return {"probe": [found.causal, found.checked, found.worst], "requests": len(there.sizes) - before}


def remote_padding(seed: int) -> Answer:
    """Left-padded prompts reach the model as they are: nnsight's own tokenisation has no part in it."""
    reference, tested, _ = service("gpt2", seed)
    tokens = reference.encode([(1, 2, 3), (4, 5, 6, 7, 8)])
    wanted = [checks.LOGITS, Site("pos_embed"), Site("z", layer=1)]
    with torch.no_grad():
        ours, theirs = (model.backend.run(model.inputs(tokens), wanted, {}) for model in (reference, tested))
    real = tokens.inputs()["attention_mask"].bool()
    return {"worst": {site.name: checks.fraction(theirs[site][real], ours[site][real]) for site in wanted}}


def remote_by_name(seed: int) -> Answer:
    """``load`` itself, with the hub's answer to what the model is called and the network replaced."""
    reference, _, there = service("llama", seed)
    keys: list[str] = []

    def piped(key: str) -> RemoteBackend:
        keys.append(key)
        return there.runner()

    huggingface._ID_CACHE[there.folder] = "somebody/llama"
    key, CONFIG.API.APIKEY = CONFIG.API.APIKEY, "none"
    with mock.patch.object(nnsight_remote, "RemoteBackend", piped):
        tested = load(there.folder, backend="nnsight", remote=True, name="far")
        worst = checks.reads(reference, tested)
    CONFIG.API.APIKEY = key
    vocabulary = tested.tokenizer.get_vocab() == words().get_vocab()
    said = [tested.name, tested.stack_refused, str(tested.probe), keys[0]]
    return {"worst": worst, "said": said, "vocabulary": vocabulary}


def simulated(seed: int) -> Answer:
    """nnsight's own simulation of the service: what travels is read back with this package hidden, then run here."""
    reference, tested, there = service("gpt2", seed)
    from nnsight import TransformersModel

    root = TransformersModel(there.folder, task="text-generation", dispatch=True, dtype=torch.float32)
    backend = nnsight_remote.NDIF(tested, root, lambda: LocalSimulationBackend(root))
    tested = copy.copy(tested)
    backend._by_module = {id(tested.module.get_submodule(_path(e))): e for e in root.modules() if _has(tested.module, _path(e))}
    tested.backend = backend
    return {"worst": checks.reads(reference, tested) | {"sweep": max(checks.sweeps(reference, tested, seed).values())}}


def _path(envoy: Any) -> str:
    return envoy.path.partition(".")[2]


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def remote_errors(seed: int) -> Answer:
    """What goes wrong there is said here in one line, in the words of a pass here where it is one of ours."""
    _, tested, there = service("gpt2", seed)
    raised = {}

    def note(name: str, what: Callable[[], object]) -> None:
        try:
            what()
            raised[name] = ""
        except Exception as error:
            raised[name] = f"{type(error).__name__}: {error}"

    lock = threading.Lock()  # a thing that cannot travel
    note("shape", lambda: checks.wrong_shape(tested))
    note("own", lambda: checks.run(tested, [checks.LOGITS], {Site("z", layer=0): lambda h: h / {}[0]}))
    note("travel", lambda: checks.run(tested, [checks.LOGITS], {Site("z", layer=0): lambda h: (lock, h)[1]}))
    note("gradients", lambda: checks.gradients(tested, tested, seed))
    note("pattern", lambda: tested.check(Site("pattern", layer=0)))
    host, key = CONFIG.API.HOST, CONFIG.API.APIKEY
    CONFIG.API.HOST, CONFIG.API.APIKEY = "http://127.0.0.1:9", None
    note("key", lambda: load(there.folder, backend="nnsight", remote=True))
    CONFIG.API.APIKEY = "none"
    note("hub", lambda: load(there.folder, backend="nnsight", remote=True))
    lost = nnsight_remote.remote(there.folder, words(), "lost", "model", None, {}, runner=lambda: RemoteBackend("key"))
    note("service", lambda: checks.run(lost, [checks.LOGITS]))
    CONFIG.API.HOST, CONFIG.API.APIKEY = host, key
    return {"raised": raised}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = globals()[job.pop("check")](**job)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if server.cache_info().currsize:
        server().communicate()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
