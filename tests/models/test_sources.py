"""What a folder, a file or a repository holds that is no model, said in one line; and what is refused unless it is allowed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweeps
import tiny
import torch
from safetensors.torch import load_file, save_file
from saved import build
from torch import nn
from transformers import PreTrainedModel

from interp.errors import LoadError, UnknownSiteError
from interp.models import digest, load
from interp.models.sources import locate
from interp.sites import Site

IDS = torch.tensor([[1, 5, 9, 2]])


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt2: PreTrainedModel) -> Path:
    tiny_gpt2.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def says(where: Path | str, words: str, **options: Any) -> None:
    """Loading fails, and says so in one line that is no longer than a paragraph."""
    with pytest.raises(LoadError, match=words) as error:
        load(where, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def configured(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    said = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return folder


# which class


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5", "vit", "clip"])
@pytest.mark.parametrize(("named", "words"), [(None, "does not say its architecture"), (["FooModel"], "names FooModel, which")])
def test_without_a_known_class_the_one_that_the_weights_fit(
    architecture: str, named: list[str] | None, words: str, tmp_path: Path, seed: int
) -> None:
    live = build(architecture, seed)
    live.save_pretrained(tmp_path)
    with pytest.warns(
        RuntimeWarning, match=rf"config\.json {words}.*; its weights fit {type(live).__name__}, so that is loaded"
    ):
        loaded = load(configured(tmp_path, architectures=named), check=False)
    assert type(loaded.module) is type(live)


def test_two_classes_that_fit_are_named(tmp_path: Path, seed: int) -> None:
    """BERT's head for masked words and for next words are the same weights."""
    build("bert", seed).save_pretrained(tmp_path)
    says(
        configured(tmp_path, architectures=None),
        r"config\.json does not say its architecture, and its weights fit BertLMHeadModel, BertForMaskedLM; write the class",
    )


def test_a_class_that_a_user_registered(tmp_path: Path) -> None:
    from interp.models.zoo import ZooForCausalLM, path

    assert type(load(path("induction-2l"), check=False).module) is ZooForCausalLM
    assert not hasattr(__import__("transformers"), "ZooForCausalLM")


def test_weights_that_have_no_place_are_said(folder: Path) -> None:
    with pytest.warns(RuntimeWarning, match="GPT2LMHeadModel has no place for 1. weights .*, such as transformer.h.2"):
        assert load(configured(folder, n_layer=2)).sizes["layer"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 4}, r"the checkpoint lacks transformer\.h\.3.* and 9 more, which would be random numbers$"),
        (
            {"n_embd": 16},
            r"attn\.c_attn\.bias is \(96,\) in the checkpoint, but the configuration makes it \(48,\), and 36 more",
        ),
        ({"n_head": 5}, "must be divisible by num_heads"),
        ({"n_head": "four"}, "'n_head' expected int, got str"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, r"lacks score\.weight, which would be random numbers$"),
        ({"_class_name": "NoSuch"}, r"names NoSuch, which is no model of diffusers \d"),
        ({"_class_name": "DDIMScheduler"}, "names DDIMScheduler, which is no model of diffusers"),
    ],
)
def test_a_configuration_that_does_not_fit_its_weights(folder: Path, changes: dict[str, Any], words: str) -> None:
    says(configured(folder, **changes), words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "flaot16"}, "dtype 'flaot16' is not 'auto' or .*; did you mean 'float16'?"),
        ({"dtype": "int8"}, "dtype 'int8' is not .*; quantised weights are asked for with quantization_config="),
        ({"dtype": torch.int8}, r"dtype torch\.int8 is not"),
        ({"chekc": False}, "unexpected keyword argument 'chekc'"),
        ({"attn_implementation": "foo"}, 'attn_implementation="foo"'),
        ({"device": "cpu", "device_map": "auto"}, "device='cpu' and device_map='auto' both say where the model goes"),
        ({"device_map": "foo"}, "but found foo"),
        ({"device": "cuda:97"}, "device 'cuda:97': "),
        ({"device": "nowhere"}, "device 'nowhere': "),
    ],
)
def test_an_option_that_cannot_be_followed(folder: Path, options: dict[str, Any], words: str) -> None:
    says(folder, words, **options)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", torch.float16])
def test_dtypes_by_name(folder: Path, dtype: Any) -> None:
    assert load(folder, dtype=dtype, check=False).dtype == getattr(torch, str(dtype).removeprefix("torch."))


# what a folder holds instead


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def _pipeline(folder: Path) -> None:
    (folder / "config.json").unlink()
    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    for part in ("vae", "unet"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")


def _sentences(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    (folder / "0_Transformer").mkdir()
    (folder / "config.json").rename(folder / "0_Transformer" / "config.json")


def _below(folder: Path) -> None:
    (folder / "checkpoint-100").mkdir()
    (folder / "config.json").rename(folder / "checkpoint-100" / "config.json")


def _packed(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def _renamed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def _written(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _sharded(folder: Path) -> None:
    _renamed("model-00001-of-00002.safetensors")(folder)
    weight_map = {"transformer.wte.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


DAMAGED = "a safetensors file of it is cut short, damaged, or none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_adapter, r"mine is a peft adapter of org/base, not a model; merge it into that \(peft: merge_and_unload\)"),
        (
            _pipeline,
            r"mine is a diffusers pipeline \(StableDiffusionPipeline\), not a single model; load one of its parts "
            r"\(unet, vae\), as load\(…, subfolder='unet'\)$",
        ),
        (_sentences, "mine is of sentence-transformers; load its transformer, .*mine/0_Transformer$"),
        (_below, r"has no config\.json, so it is not a model in transformers' format; checkpoint-100 in it has one$"),
        (_packed, r"has no config\.json but GGUF files; give one of them, such as .*model-q4\.gguf$"),
        (_renamed("tf_model.h5"), r"has no \*\.safetensors; tf_model\.h5 is another format$"),
        (_renamed("weights.safetensors"), r"Error no file named model\.safetensors found"),
        (
            _written(b"version https://git-lfs.github.com/spec/v1\n"),
            "is a pointer of git-lfs, not the file itself; run git lfs",
        ),
        (_written(b"<!DOCTYPE html>" + b"x" * 999), DAMAGED),
        (_cut, DAMAGED),
        (_sharded, "No such file or directory: .*model-00002-of-00002"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON: "),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), r"config\.json is not JSON: "),
        (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json holds a list, not the configuration"),
    ],
)
def test_a_folder_that_is_no_model(folder: Path, change: Callable[[Path], object], words: str) -> None:
    change(folder)
    says(folder, words)


def test_an_empty_text() -> None:
    says("", "model is an empty text; give a hub id, a folder, a GGUF file or zoo/<name>")
    with pytest.raises(LoadError, match="model is a NoneType, not a hub id, a folder, a GGUF file or a module"):
        sweeps.unchecked(locate)(None)


def test_a_subfolder_that_is_not_there(folder: Path) -> None:
    says(folder, "mine/unet': no such folder$", subfolder="unet")


# models of diffusers


def test_a_part_of_a_pipeline_in_its_own_dtype(tmp_path: Path, seed: int) -> None:
    unet: Any = build("unet", seed).to(torch.bfloat16)
    unet.save_pretrained(tmp_path / "unet")
    for loaded in (load(tmp_path / "unet"), load(tmp_path, subfolder="unet")):
        assert type(loaded.module) is type(unet)
        assert (loaded.name, loaded.dtype) == ("unet", torch.bfloat16)
        assert Site("cross_out", layer=0) in loaded.sites()
    assert load(tmp_path / "unet", dtype="float32", check=False).dtype == torch.float32


def test_weights_of_diffusers_that_do_not_fit(tmp_path: Path, seed: int) -> None:
    build("unet", seed).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if name != "conv_in.bias"}, file)
    says(tmp_path, r"lacks conv_in\.bias, which would be random numbers$")
    file.write_bytes(file.read_bytes()[:-10])
    says(tmp_path, DAMAGED)


def test_diffusers_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    build("unet", seed).save_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    says(
        tmp_path,
        r"is a UNet2DConditionModel of diffusers, which is not installed; pip install 'interp-workbench\[diffusion\]'$",
    )


# the hub: a repository as its cache holds it


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A repository ``org/mine`` in a cache of the hub, which offline mode reads; the folder's files, less some."""

    def put(*without: str) -> Path:
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "cache" / "models--org--mine"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit, ignore=shutil.ignore_patterns(*without))
        return tmp_path / "cache"

    return put


def test_a_model_of_the_hub(cached: Callable[..., Path], tiny_gpt2: PreTrainedModel) -> None:
    model = load("org/mine", cache_dir=cached())
    assert (model.name, model.revision) == ("org/mine", "0123456789abcdef0123456789abcdef01234567")
    assert torch.equal(model.module(IDS).logits, tiny_gpt2(IDS).logits)
    assert model.missing["tokenizer"] == "org/mine holds no tokenizer"


def test_a_pickle_of_the_hub_is_refused(cached: Callable[..., Path], folder: Path, tiny_gpt2: PreTrainedModel) -> None:
    torch.save(tiny_gpt2.state_dict(), folder / "pytorch_model.bin")
    cache = cached("*.safetensors")
    says("org/mine", r"model\.safetensors", cache_dir=cache)
    assert torch.equal(
        load("org/mine", cache_dir=cache, allow_pickle=True, check=False).module(IDS).logits, tiny_gpt2(IDS).logits
    )


@pytest.mark.parametrize(
    ("change", "words"), [(_pipeline, "is a diffusers pipeline"), (_adapter, "is a peft adapter of org/base")]
)
def test_a_repository_that_is_no_model(
    cached: Callable[..., Path], folder: Path, change: Callable[[Path], object], words: str
) -> None:
    change(folder)
    says("org/mine", f"^'org/mine' {words}", cache_dir=cached("config.json"))


# pickles


def test_a_pickle_that_the_user_allows(folder: Path, tiny_gpt2: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_gpt2.state_dict(), folder / "pytorch_model.bin")
    says(folder, r"pytorch_model\.bin is a pickle, which can run code: .* load with allow_pickle=True$")
    model = load(folder, allow_pickle=True)
    assert torch.equal(model.module(IDS).logits, tiny_gpt2(IDS).logits)
    assert digest.of_module(model.module) == digest.of_module(tiny_gpt2)
    assert model.digest == load(folder, allow_pickle=True).digest


def test_a_pickle_that_is_allowed_still_runs_no_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    marker = folder / "was-run"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save(Evil(), folder / "pytorch_model.bin")
    says(folder, "its pickle holds more than tensors, and is not read, with or without allow_pickle=True$", allow_pickle=True)
    assert not marker.exists()


def test_pickles_that_nobody_reads(folder: Path, tiny_gpt2: PreTrainedModel) -> None:
    (folder / "model.safetensors").rename(folder / "model.pt")
    says(folder, r"of pickles allow_pickle=True reads pytorch_model\*\.bin alone, not model\.pt$", allow_pickle=True)
    says(folder / "model.pt", r"model\.pt is a pickle, which can run code; give the folder")
    with pytest.raises(LoadError, match="a live module is used as it is, so allow_pickle cannot apply"):
        load(tiny_gpt2, allow_pickle=True)


# code of the repository's own

CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class MineConfig(PreTrainedConfig):
    model_type = "mine"

    def __init__(self, vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **more):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        super().__init__(**more)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        n, self.num_heads = config.hidden_size, config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(n, n) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(z.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        n = config.hidden_size
        self.norm, self.attn = nn.LayerNorm(n), Attention(config)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(n), nn.Linear(n, 3 * n), nn.Linear(3 * n, n)

    def forward(self, x):
        x = x + self.attn(self.norm(x))
        return x + self.fc2(torch.relu(self.fc1(self.norm2(x))))


class MineForCausalLM(PreTrainedModel):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return CausalLMOutput(logits=self.head(x))
"""
"""A model whose attention is fused and cannot be asked for its pattern."""


@pytest.fixture
def mine() -> PreTrainedModel:
    own: dict[str, Any] = {}
    exec(CODE, own)
    torch.manual_seed(0)
    return own["MineForCausalLM"](own["MineConfig"](architectures=["MineForCausalLM"])).eval()


@pytest.fixture
def remote(tmp_path: Path, mine: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "remote"
    mine.save_pretrained(folder)
    (folder / "modeling_mine.py").write_text(CODE)
    auto = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    return configured(folder, auto_map=auto)


def test_code_of_a_repository_runs_only_where_the_user_says_so(remote: Path, mine: PreTrainedModel) -> None:
    marker = remote / "was-run"
    (remote / "modeling_mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n{CODE}")
    words = r"brings its own Python code \(modeling_mine\.py\), which can do anything; .* load with trust_remote_code=True$"
    says(remote, words)
    says(configured(remote, architectures=None), words)
    assert not marker.exists()
    model = load(remote, trust_remote_code=True)
    assert marker.exists()
    assert type(model.module).__name__ == "MineForCausalLM"
    assert model.sites() == load(mine).sites()
    assert torch.equal(model.module(IDS).logits, mine(IDS).logits)


def test_code_of_another_repository_is_named(remote: Path) -> None:
    other = {"AutoModelForCausalLM": "org/other--modeling_mine.MineForCausalLM"}
    says(configured(remote, auto_map=other), r"brings its own Python code \(modeling_mine\.py of org/other\)")


def test_code_that_is_not_there_or_breaks(remote: Path) -> None:
    (remote / "modeling_mine.py").write_text("import no_such_package_at_all\n")
    says(remote, "no_such_package_at_all", trust_remote_code=True)
    (remote / "modeling_mine.py").write_text("1 / 0\n")
    says(remote, "division by zero", trust_remote_code=True)
    (remote / "modeling_mine.py").unlink()
    says(remote, "does not appear to have a file named modeling_mine.py", trust_remote_code=True)


# attention that cannot be asked for its pattern


@pytest.mark.parametrize("name", ["pattern", "scores"])
def test_fused_attention_has_no_pattern_and_says_why(mine: PreTrainedModel, name: str) -> None:
    model = load(mine)
    words = re.escape(
        f"unknown site '{name}': MineForCausalLM does not have it, because blocks.1.attn calls no softmax of its own: its "
        "attention is fused or has none (known: embed, resid_pre, "
    )
    with pytest.raises(UnknownSiteError, match=words) as error:
        model.check(Site(name, layer=0))
    assert "\n" not in str(error.value)
    assert {Site(n, layer=1) for n in ("q", "k", "v", "z", "result", "attn_out")} <= set(model.sites())


def test_flex_attention_has_a_pattern_by_way_of_the_models_own_eager_one(tmp_path: Path) -> None:
    tiny.llama(0).save_pretrained(tmp_path)
    model = load(tmp_path, attn_implementation="flex_attention", check=False)
    assert model.module.config._attn_implementation == "flex_attention"
    site = Site("pattern", layer=1)
    with torch.no_grad(), model.prepared([site]):
        found = model.backend.run(model.example, reads=[site], writes={})[site]
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
    assert model.module.config._attn_implementation == "flex_attention"


# a forward of which nothing is known


class Odd(nn.Module):
    """Blocks with attention, in a model whose forward takes what nobody can guess."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, words: list[int]) -> torch.Tensor:
        return self.inner(torch.tensor([words])).logits


def test_what_is_missing_is_said_where_a_site_is_asked_for(tiny_gpt2: PreTrainedModel) -> None:
    with pytest.raises(
        UnknownSiteError, match=r"'z': Odd does not have it, because Odd: its forward needs words; show how it is"
    ):
        load(Odd(tiny_gpt2)).check(Site("z", layer=0))
    broken = tiny.gpt2(0)
    broken.forward = lambda input_ids, attention_mask=None: 1 / 0  # type: ignore[method-assign]
    broken.config.vocab_size = 97
    with pytest.raises(ZeroDivisionError):
        broken(IDS)
