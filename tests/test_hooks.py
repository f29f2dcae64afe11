import threading

import pytest
import torch
from torch import nn

from collide_utils.hooks import record, untouched


def count(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_inputs_and_outputs_by_name():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(2, 3)
    with record(model) as recording:
        model(x)
    assert recording.order == ["0", "1"]
    assert torch.equal(recording.inputs["0"][0], x)
    assert torch.equal(recording.inputs["1"][0], model[0](x))
    assert torch.equal(recording.outputs["1"][0], model(x))
    assert not recording.outputs["1"][0].requires_grad


def test_an_in_place_operation_does_not_reach_what_was_recorded():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    x = torch.tensor([[-1.0, 2.0]])
    with record(model) as recording:
        model(x.clone())
    assert torch.equal(recording.outputs["0"][0], x)
    assert torch.equal(recording.inputs["1"][0], x)
    assert torch.equal(recording.outputs["1"][0], x.relu())


def test_a_module_that_is_called_twice_has_two_entries():
    relu = nn.ReLU()
    model = nn.Sequential(relu, nn.Flatten(), relu)
    with record(model) as recording:
        model(torch.randn(1, 3))
    assert recording.order == ["0", "1", "0"]
    assert len(recording.inputs["0"]) == len(recording.outputs["0"]) == 2


def test_layers_that_return_several_tensors_are_recorded_by_the_first():
    model = nn.LSTM(3, 4)
    with record(model, [""]) as recording:
        output, _ = model(torch.randn(5, 3))
    assert torch.equal(recording.outputs[""][0], output)


class Dictionary(nn.Module):
    def forward(self, *, x):
        return {"out": 2 * x}


def test_keyword_arguments_and_dictionaries_are_looked_into():
    x = torch.randn(3)
    model = Dictionary()
    with record(model, [""]) as recording:
        model(x=x)
    assert torch.equal(recording.inputs[""][0], x) and torch.equal(recording.outputs[""][0], 2 * x)


def test_hooks_are_removed_also_after_an_error():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError), record(model):
        model(torch.randn(2, 5))
    with pytest.raises(ValueError), record(model, ["0", "1"]):
        pass
    assert count(model) == 0


def test_unknown_layers_are_named_with_near_matches(patchnet):
    with pytest.raises(ValueError, match=r"'layer1.conv3'.*layer1.conv1"), record(patchnet, ["layer1.conv3"]):
        pass


class Takes(nn.Module):
    """Calls a module of its own with something first that is no tensor."""

    def __init__(self, first, returned):
        super().__init__()
        self.inner = Echo(returned)
        self.first = first

    def forward(self, x):
        self.inner(self.first, x)
        return x


class Echo(nn.Module):
    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def forward(self, first, x):
        return self.returned(x)


@pytest.mark.parametrize("first", ["a word", None, 3, {}, [], ("a", {"b": None}), b"bytes", object()])
def test_what_holds_no_tensor_is_passed_over(first):
    x = torch.randn(1, 3)
    model = Takes(first, lambda x: {"none": None, "deep": [("word", 2 * x)]})
    with record(model) as recording:
        model(x)
    assert torch.equal(recording.inputs["inner"][0], x) and torch.equal(recording.outputs["inner"][0], 2 * x)
    model = Takes(first, lambda x: first)
    with record(model) as recording:
        model(x)
    assert recording.outputs["inner"] == [None] and recording.order == ["inner"]


def test_names_may_come_from_a_generator_but_not_as_one_string():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with record(model, (name for name in ("0", "1", "0"))) as recording:
        model(torch.randn(2, 3))
    assert recording.order == ["0", "1"]
    with pytest.raises(TypeError, match="not the one string '0'"), record(model, "0"):
        pass
    with pytest.raises(ValueError, match="no layer 7"), record(model, [7]):
        pass
    with pytest.raises(TypeError, match="Module, not function"), record(lambda x: x):
        pass


def test_calls_of_another_thread_are_not_recorded():
    model = nn.Sequential(nn.Linear(3, 4))
    with record(model) as recording:
        thread = threading.Thread(target=model, args=(torch.randn(1, 3),))
        thread.start()
        thread.join()
        model(torch.randn(2, 3))
    assert [len(seen) for seen in recording.inputs["0"]] == [2]


def test_a_scripted_module_is_not_recorded():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Tanh())), nn.ReLU())
    with record(model) as recording:
        model(torch.randn(2, 3))
    assert recording.order == ["1"]
    with pytest.raises(ValueError, match=r"layer '0\.1' is scripted"), record(model, ["0.1"]):
        pass


def test_lazy_layers_are_not_made_by_looking():
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="lazy layer that has no weights yet"), untouched(model):
        pass
