"""What a training step leaves behind, keeps, and waits for."""

import gc
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet18

from zennit_isnet import ISNetRegularizer, LRPFlex, Original, Selective, Stochastic


def tiny_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def batch(size=16):
    masks = torch.zeros(2, 1, size, size)
    masks[..., 4:12, 4:12] = 1
    return torch.rand(2, 3, size, size), masks, torch.tensor([0, 2])


def calibrated(model, images, **parts):
    regularizer = ISNetRegularizer(model, **parts)
    regularizer.load_state_dict({**regularizer.state_dict(), "ranges": [{"layer": None, "c1": 1e-3, "c2": 1.0}]})
    return regularizer


def trainer(model, regularizer, images, masks, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        logits, penalty = regularizer(images, masks)
        loss = 0.3 * F.cross_entropy(logits, labels) + 0.7 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=["epsilon", "z^B"])
def test_steps_leave_no_object_behind(box):
    model, (images, masks, labels) = tiny_net(), batch()
    step = trainer(model, calibrated(model, images, composite=LRPFlex(box=box)), images, masks, labels)

    def census():
        gc.collect()
        objects = gc.get_objects()
        tensors = [o for o in objects if type(o) in (torch.Tensor, nn.Parameter)]
        return len(tensors), sum(t.untyped_storage().nbytes() for t in tensors), len(objects)

    for _ in range(20):
        step()
    counts, steps = [census()], 20
    for _ in range(3):
        for _ in range(steps):
            step()
        counts.append(census())
    assert len({tensors for tensors, _, _ in counts}) == 1
    assert len({size for _, size, _ in counts}) == 1
    # the test runner makes objects now and then; a leak makes some in each step of each round
    grown = [later - earlier for (_, _, earlier), (_, _, later) in itertools.pairwise(counts)]
    assert min(grown) < steps, grown


def test_the_graph_is_freed_without_the_garbage_collector():
    model, (images, masks, labels) = tiny_net(), batch()
    step = trainer(model, calibrated(model, images), images, masks, labels)
    step()
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is torch.Tensor for o in gc.get_objects())
        for _ in range(3):
            step()
        assert sum(type(o) is torch.Tensor for o in gc.get_objects()) == before
    finally:
        gc.enable()


class _NoWaiting(TorchDispatchMode):
    """Refuses what makes an accelerator wait: values read by Python, and copies of its data to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("formulation", [Selective(), Stochastic(), Original()], ids=repr)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=["epsilon", "z^B"])
def test_after_the_first_call_no_step_waits_for_the_device(box, formulation, monkeypatch):
    model, (images, masks, labels) = tiny_net(), batch()
    composite = LRPFlex(box=box)
    regularizer = calibrated(model, images, composite=composite, formulation=formulation)
    step = trainer(model, regularizer, images, masks, labels)
    step()
    # Values are read at every call on the CPU only; here the step of an accelerator counts.
    monkeypatch.setattr(regularizer, "_reads_values", lambda images: False)
    monkeypatch.setattr(regularizer.attribution, "check_box", lambda images: None)
    with _NoWaiting():
        step()


def test_that_test_would_see_a_step_that_waits():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), _NoWaiting():
        torch.ones(1).item()


def test_a_registration_is_two_hooks_whatever_the_size_of_the_model():
    model, composite = resnet18(num_classes=3), LRPFlex()

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    assert hooks() == 0
    with composite.context(model):
        assert hooks() == 2
    assert hooks() == 0


def test_the_graph_of_the_signal_keeps_one_tensor_for_a_gate_and_one_for_a_batchnorm():
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(6):
        model.append(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False))
        model.append(nn.BatchNorm2d(8))
        model.append(nn.ReLU(inplace=True))
    model.append(nn.Flatten())
    activation = 2 * 8 * 32 * 32 * 4
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    kept = {}

    def pack(tensor):
        if tensor.numel() * 4 >= activation:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with LRPFlex().context(model):
        logits = model(images)
        seed = torch.ones_like(logits)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            (relevance,) = torch.autograd.grad(logits, images, seed, create_graph=True)
        new = set(kept) - {seed.untyped_storage().data_ptr()}
    assert relevance.requires_grad
    # at each of six layers: the gate's share, its activation (kept by the forward pass anyway), and two signals, of
    # which the scaled one is dropped when the convolution takes over
    assert len(new) <= 6 * 4
