import json
import os
import pickle
import re
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from collide_utils import _data, checkpoints, models

SHIPPED = ["patchnet", "stridenet", "patchnet-b", "patchnet-l2"]
FOLDER = _data.FOLDER / "models"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_are_what_the_course_says(name):
    model = models.load(name)
    assert not model.training and model.input_size == 224
    assert 20 <= len(model.categories) <= 30 and len(set(model.categories)) == len(model.categories)
    conv = model.conv1
    assert conv.weight.shape == (64, 3, 7, 7) and conv.bias is None
    assert (conv.stride, conv.padding) == (((2, 2), (3, 3)) if name == "stridenet" else ((7, 7), (0, 0)))
    with torch.no_grad():
        assert model(torch.rand(2, 3, 224, 224)).shape == (2, len(model.categories))


def test_patchnet_and_stridenet_share_their_body():
    shapes = [
        {key: value.shape for key, value in models.load(name).state_dict().items()}
        for name in ("patchnet", "stridenet")
    ]
    assert shapes[0] == shapes[1]


def test_pixels_are_normalised_inside():
    model = models.load("patchnet")
    image = torch.rand(3, 8, 8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(model.normalize(image), (image - mean) / std)


def test_files_are_small_and_say_what_they_are():
    files = sorted(FOLDER.glob("*.safetensors"))
    assert sorted(file.stem for file in files) == sorted([*SHIPPED, "streetnet", "streetboxes"])
    assert sum(file.stat().st_size for file in files) <= 32e6
    for file in files:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        assert json.loads(metadata["categories"]) == models.load(file.stem).categories
        assert json.loads(metadata["mean"]) == pytest.approx([0.485, 0.456, 0.406])
        assert json.loads(metadata["std"]) == pytest.approx([0.229, 0.224, 0.225])


def test_a_network_without_a_training_record_is_named():
    with pytest.raises(ValueError, match="'patchnett'; near matches: patchnet.*records of patchnet, "):
        models.training_record("patchnett")


def test_tables_are_read_as_numbers_where_they_hold_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(_data, "FOLDER", tmp_path)
    (tmp_path / "t.csv").write_text('network,a,b,c\n"x, ε = 5",12,1e-3,\n', encoding="utf-8")
    assert _data.table("t.csv") == [{"network": "x, ε = 5", "a": 12, "b": 0.001, "c": None}]


def test_names_lists_what_load_takes():
    assert models.names()[:4] == SHIPPED
    assert {"resnet18", "resnet50", "vit_b_32"} <= set(models.names())


def test_torchvision_builders_take_pixels_and_carry_names():
    model = models.load("resnet18", weights=None, dtype=torch.float64)
    assert model.input_size == 224 and len(model.categories) == 1000 and not model.training
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), model.network(model.normalize(image)))
    assert next(model.parameters()).dtype == torch.float64


def test_unknown_names_list_near_ones():
    with pytest.raises(ValueError, match=r"'patchnett'.*near matches: patchnet"):
        models.load("patchnett")
    with pytest.raises(ValueError, match="weights must be"):
        models.load("resnet18", weights="IMAGENET1K_V1")
    with pytest.raises(ValueError, match="shipped with its weights"):
        models.load("patchnet", weights=None)
    with pytest.raises(ValueError, match="'patch' or 'stride'"):
        models.SmallResNet("conv", ["a"])


def test_without_a_network_the_error_says_how_to_get_the_weights(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no network.*resnet18-\w+\.pth.*weights=None"):
        models.load("resnet18")


def whole_message(error):
    """What a reader sees in the traceback: the message, and those of the errors that it names as its causes."""
    return "".join(traceback.format_exception_only(error)) + (whole_message(error.__cause__) if error.__cause__ else "")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_cached_file_that_carries_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    cache = tmp_path / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    cache.parent.mkdir()
    torch.save({"conv1.weight": Hostile(str(tmp_path / "ran"))}, cache)
    with pytest.raises(ValueError, match="resnet18.*damaged: delete .*refused, because loading it would run code"):
        models.load("resnet18")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"half a file", "another network"])
def test_a_damaged_file_in_the_cache_is_called_damaged(tmp_path, monkeypatch, content):
    from torchvision.models import ResNet18_Weights

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    cache = tmp_path / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    cache.parent.mkdir()
    if isinstance(content, bytes):
        cache.write_bytes(content)
    else:
        torch.save({"weight": torch.ones(2)}, cache)
    with pytest.raises(ValueError, match="resnet18 in torch's cache .* damaged: delete") as caught:
        models.load("resnet18")
    assert "weights_only" not in whole_message(caught.value)


def test_saved_networks_come_back(tmp_path):
    model = models.SmallResNet("stride", ["a", "b"]).eval()
    models.save(model, tmp_path / "small.safetensors")
    again = checkpoints.load_checkpoint(tmp_path / "small.safetensors")
    image = torch.rand(1, 3, 64, 64)
    assert again.categories == ["a", "b"] and torch.equal(again(image), model(image))


def test_damaged_and_hostile_files_are_refused(tmp_path):
    whole = (FOLDER / "patchnet.safetensors").read_bytes()
    cases = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "no header": whole[8:],
        "pickle": pickle.dumps(Hostile(str(tmp_path / "ran"))),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.safetensors: not a whole checkpoint"):
            checkpoints.load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    for metadata in (
        {"stem": "patch"},
        {"stem": "patch", "categories": "null"},
        {"stem": "patch", "categories": "["},
        {"stem": "patch", "categories": '["a"]'},
        {"stem": "other", "categories": '["a"]', "widths": "[8, 8, 8]"},
        {"architecture": "other"},
    ):
        save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors", metadata)
        with pytest.raises(ValueError, match="other.safetensors: not a whole file of one of our networks"):
            checkpoints.load_checkpoint(tmp_path / "other.safetensors")
    metadata = {"stem": "patch", "categories": '["a"]', "widths": "[8, 8, 8]"}
    save_file({"a": torch.ones(1)}, tmp_path / "keys.safetensors", metadata)
    with pytest.raises(ValueError, match="conv1.weight"):
        checkpoints.load_checkpoint(tmp_path / "keys.safetensors")


@pytest.mark.parametrize("name", ["patchnet", "stridenet"])
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_loading_knows_no_default_dtype_and_draws_no_random_numbers(name, default):
    expected, random = models.load(name, torch.float64).state_dict(), torch.get_rng_state()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = models.load(name, torch.float64).state_dict()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_pretrained_networks_draw_no_random_numbers_and_random_ones_do(tmp_path, monkeypatch):
    from torchvision.models import ShuffleNet_V2_X0_5_Weights

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    cache = tmp_path / "checkpoints" / ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    cache.parent.mkdir()
    source = network()
    torch.save(source.state_dict(), cache)
    random, before = torch.get_rng_state(), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = models.load("shufflenet_v2_x0_5")
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(found.network.fc.weight, source.fc.weight)
    assert torch.equal(
        models.load("shufflenet_v2_x0_5", torch.float64).normalize.mean.flatten(),
        torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64),
    )
    twice = [models.load("shufflenet_v2_x0_5", weights=None).network.fc.weight for _ in range(2)]
    assert not torch.equal(*twice)


class Attacker(nn.Module):
    """What the robustness library saves: a normaliser, the network, and an attacker that holds both again."""

    class InputNormalize(nn.Module):
        def __init__(self, mean, std):
            super().__init__()
            self.register_buffer("new_mean", torch.tensor(mean)[:, None, None])
            self.register_buffer("new_std", torch.tensor(std)[:, None, None])

        def forward(self, x):
            return (x.clamp(0, 1) - self.new_mean) / self.new_std

    def __init__(self, network):
        super().__init__()
        self.normalizer = self.InputNormalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
        self.model = network
        self.attacker = nn.Module()
        self.attacker.normalize, self.attacker.model = self.normalizer, network

    def forward(self, x):
        return self.model(self.normalizer(x))


def network(name="shufflenet_v2_x0_5", **options):
    from torchvision.models import get_model

    return get_model(name, weights=None, **options).eval()


def robustness_file(path, source, **changes):
    state = {f"module.{key}": value for key, value in source.state_dict().items()} | changes
    assert any(key.startswith("module.attacker.model.") for key in state)
    torch.save(
        {
            "model": {key: value for key, value in state.items() if value is not None},
            "epoch": 89,
            "optimizer": {"state": {}, "lr": 0.1},
            "nat_prec1": 60.0,
        },
        path,
    )


def test_a_robustness_checkpoint_predicts_as_its_source(tmp_path):
    source = Attacker(network("squeezenet1_1")).double()
    path = tmp_path / "squeezenet1_1_l2_eps3.ckpt"
    robustness_file(path, source)
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    expected = source(x)
    # The logits hang on the image: those of two differ by far more than what is tolerated here.
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    for model in (checkpoints.load_checkpoint(path), checkpoints.load_checkpoint(path, "squeezenet1_1")):
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-12)
        assert model.normalize.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
        assert model.normalize.std.flatten().tolist() == pytest.approx([0.2, 0.25, 0.3])
        assert not model.training and model.input_size == 224 and len(model.categories) == 1000


@pytest.mark.parametrize("what", ["mean", "std"])
def test_a_robustness_checkpoint_without_its_normalisation_is_refused(tmp_path, what):
    path = tmp_path / "squeezenet1_1.ckpt"
    robustness_file(path, Attacker(network("squeezenet1_1")), **{f"module.normalizer.new_{what}": None})
    with pytest.raises(ValueError, match=f"squeezenet1_1.ckpt: .* without 'normalizer.new_{what}'"):
        checkpoints.load_checkpoint(path)


def prefixed(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"net": prefixed("module.")(state)},
        lambda state: {"model_state_dict": state},
        lambda state: {"net": {"state_dict": {"model": state}}, "epoch": 3},
        *map(
            prefixed, ("module.", "_orig_mod.", "model.", "backbone.", "net.", "module._orig_mod.", "model.backbone.")
        ),
        lambda state: {key: value for key, value in state.items() if "num_batches_tracked" not in key},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_dicts_are_read_however_they_are_wrapped(tmp_path, wrap, dtype):
    source = network().to(dtype)
    torch.save(wrap(source.state_dict()), tmp_path / "mine.pt")
    model = checkpoints.load_checkpoint(tmp_path / "mine.pt", "shufflenet_v2_x0_5")
    assert all(torch.equal(model.network.state_dict()[key], value) for key, value in source.state_dict().items())
    assert model.normalize.mean.dtype == dtype
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).to(dtype)
    assert torch.equal(model.normalize.mean.flatten(), mean)
    assert model(torch.rand(1, 3, 64, 64, dtype=dtype)).isfinite().all()


def test_torchvisions_own_densenet_files_are_read(tmp_path):
    source = network("densenet121")
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in source.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet121-a639ec97.pth")
    model = checkpoints.load_checkpoint(tmp_path / "densenet121-a639ec97.pth")
    assert all(torch.equal(model.network.state_dict()[key], value) for key, value in source.state_dict().items())


def test_safetensors_half_precision_and_other_numbers_of_classes(tmp_path):
    source = network(num_classes=7).half()
    save_file(source.state_dict(), tmp_path / "shufflenet_v2_x0_5.safetensors")
    model = checkpoints.load_checkpoint(tmp_path / "shufflenet_v2_x0_5.safetensors")
    assert model.network.fc.weight.shape[0] == 7 and {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.normalize.mean.dtype == torch.float16 and torch.equal(model.network.fc.weight, source.fc.weight)
    assert not hasattr(model, "categories")


def test_a_checkpoint_of_ours_says_itself_what_it_is(tmp_path):
    source = models.load("patchnet")
    models.save(source, tmp_path / "anything.safetensors")
    assert checkpoints.load_checkpoint(tmp_path / "anything.safetensors").categories == source.categories


def test_a_wrong_architecture_gets_the_keys_that_differ(tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(network().state_dict(), path)
    with pytest.raises(ValueError, match="mine.pt: not a shufflenet_v2_x1_0") as caught:
        checkpoints.load_checkpoint(path, "shufflenet_v2_x1_0")
    assert re.search(
        r"\d+ keys of another shape: .*stage2.0.branch1.2.weight \(24, 24, 1, 1\) instead of "
        r"\(58, 24, 1, 1\), .*…",
        str(caught.value),
    )
    torch.save({"conv1.0.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="1 keys not in resnet18: conv1.0.weight") as caught:
        checkpoints.load_checkpoint(path, "resnet18")
    assert "keys not in the file: conv1.weight, bn1.weight" in str(caught.value)
    with pytest.raises(ValueError, match="'resnet_18'; near matches: resnet18"):
        checkpoints.load_checkpoint(path, "resnet_18")
    with pytest.raises(
        ValueError, match=r"mine.pt: its keys and shapes \(conv1.0.weight, …\) are those of no torchvision"
    ):
        checkpoints.load_checkpoint(path)


def test_an_architecture_is_known_by_its_keys_and_shapes(tmp_path, monkeypatch):
    source = network(num_classes=7)
    torch.save({"state_dict": prefixed("module.")(source.state_dict())}, tmp_path / "best.pt")
    model = checkpoints.load_checkpoint(tmp_path / "best.pt")
    assert all(torch.equal(model.network.state_dict()[key], value) for key, value in source.state_dict().items())
    # Without its head it is still the nearest, and what it lacks is said.
    monkeypatch.setattr(models, "classifiers", lambda: ["resnet18", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"])
    torch.save({key: value for key, value in source.state_dict().items() if "fc" not in key}, tmp_path / "headless.pt")
    with pytest.raises(ValueError, match="not a shufflenet_v2_x0_5\n2 keys not in the file: fc.weight, fc.bias"):
        checkpoints.load_checkpoint(tmp_path / "headless.pt")
    twins = {"one": "shufflenet_v2_x0_5", "other": "shufflenet_v2_x0_5", "third": "squeezenet1_1"}
    build = models.shapes_only
    monkeypatch.setattr(models, "classifiers", lambda: list(twins))
    monkeypatch.setattr(models, "shapes_only", lambda name, **options: build(twins[name], **options))
    with pytest.raises(ValueError, match="are those of one, other alike: say which by arch"):
        checkpoints.load_checkpoint(tmp_path / "best.pt")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_and_does_not_run(tmp_path, legacy):
    path, ran = tmp_path / "resnet18.pt", tmp_path / "ran"
    torch.save(
        {"model": {"weight": torch.ones(2)}, "args": Payload(ran)}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match="refused, because loading it would run code: it holds a getattr") as caught:
        checkpoints.load_checkpoint(path)
    assert "weights_only" not in whole_message(caught.value)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists()  # so the payload was a live one


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_checkpoints_are_refused(tmp_path, suffix):
    path = tmp_path / f"resnet18{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save({"weight": torch.ones(9999)}, path)
    for content in (path.read_bytes()[:20000], b"", b"no model at all", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name}: not a whole checkpoint") as caught:
            checkpoints.load_checkpoint(path)
        assert "weights_only" not in whole_message(caught.value)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_checkpoint(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": 3}, {"epoch": 3}, {0: torch.ones(2)}, torch.ones(2)])
def test_checkpoints_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "resnet18.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        checkpoints.load_checkpoint(tmp_path / "resnet18.pt")


def test_scripted_quantised_and_whole_number_networks_are_named(tmp_path):
    small = nn.Sequential(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(small, torch.ones(1, 2)).save(tmp_path / "scripted.pt")
        quantised = torch.ao.quantization.quantize_dynamic(small, {nn.Linear})
    torch.save(quantised.state_dict(), tmp_path / "quantised.pt")
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "quantised_too.pt")
    torch.save(
        {key: value.to(torch.int8) for key, value in network("squeezenet1_1").state_dict().items()},
        tmp_path / "whole.pt",
    )
    for name, words in (
        ("scripted", "a scripted network"),
        ("quantised", "a quantised network"),
        ("quantised_too", "a quantised network"),
        ("whole", "features.0.weight is torch.int8"),
    ):
        with pytest.raises(ValueError, match=f"{name}.pt: {words}") as caught:
            checkpoints.load_checkpoint(tmp_path / f"{name}.pt", "squeezenet1_1")
        assert "weights_only" not in whole_message(caught.value)


def test_a_cache_is_looked_at_and_not_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert not models.is_cached("resnet18")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").touch()
    assert models.is_cached("resnet18") and not models.is_cached("resnet50")
