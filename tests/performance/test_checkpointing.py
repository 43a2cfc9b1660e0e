"""Activation checkpointing gives the same logits, penalty, gradients and buffers, and keeps fewer tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import mobilenet_v3_small
from torchvision.models.resnet import BasicBlock, ResNet

from zennit_isnet import ISNetRegularizer, LRPFlex
from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp import checkpoint_contexts


class Checkpointed(nn.Module):
    def __init__(self, block, **options):
        super().__init__()
        self.block, self.options = block, options

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False, **self.options)


def resnet(wrap):
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    for name in ("layer1", "layer2", "layer4"):
        setattr(model, name, wrap(getattr(model, name)))
    return model


def mobilenet(wrap):
    model = mobilenet_v3_small(num_classes=3)
    for i in (1, 4, 5):
        model.features[i] = wrap(model.features[i])
    model.classifier[2] = nn.Identity()  # dropout: two runs would draw differently
    return model


def penalized(model, composite=None):
    torch.manual_seed(1)
    images, masks = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    masks[..., 16:48, 16:48] = 1
    regularizer = ISNetRegularizer(model, composite=composite)
    regularizer.calibrate([torch.rand(4, 3, 64, 64)], progress=False)
    logits, penalty = regularizer(images, masks)
    (logits.square().mean() + penalty).backward()
    gradients = [p.grad for p in model.parameters()]
    return [logits, penalty, *gradients], [b.clone() for b in model.buffers()]


@pytest.mark.parametrize(
    ("make", "train", "box"),
    [(resnet, True, None), (resnet, False, (0.0, 1.0)), (mobilenet, True, (0.0, 1.0)), (mobilenet, False, None)],
)
def test_the_step_is_the_same_with_checkpointed_blocks(make, train, box):
    torch.manual_seed(0)
    plain = make(lambda block: block)
    momenta = {module: module.momentum for module in plain.modules() if isinstance(module, nn.BatchNorm2d)}
    for norm in momenta:  # running statistics, without which a deep model in eval mode explains nothing
        norm.momentum = 1.0
    with torch.no_grad():
        plain(torch.rand(4, 3, 64, 64))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    checkpointed = make(lambda block: Checkpointed(block, context_fn=checkpoint_contexts))
    checkpointed.load_state_dict(dict(zip(checkpointed.state_dict(), plain.state_dict().values(), strict=True)))
    plain.train(train), checkpointed.train(train)
    composite = None if box is None else LRPFlex(box=box)

    expected, expected_buffers = penalized(plain, composite)
    values, buffers = penalized(checkpointed, composite)

    for value, reference in zip(values, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-5)
    for value, reference in zip(buffers, expected_buffers, strict=True):
        torch.testing.assert_close(value, reference)


def test_a_checkpointed_block_keeps_less_between_forward_and_backward():
    def kept(model):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), LRPFlex().context(model):
            model(torch.rand(2, 3, 64, 64, requires_grad=True))
        return sum(sizes.values())

    plain = resnet(lambda block: block)
    checkpointed = resnet(lambda block: Checkpointed(block, context_fn=checkpoint_contexts))
    weights = sum(p.nbytes for p in plain.parameters())
    assert kept(checkpointed) - weights < 0.8 * (kept(plain) - weights)


def test_checkpointing_without_the_contexts_is_refused_with_the_remedy():
    model = resnet(Checkpointed)
    before = copy.deepcopy(model.state_dict())
    regularizer = ISNetRegularizer(model)
    with pytest.raises(UnsupportedModelError, match=r"context_fn=checkpoint_contexts.*memory_efficient=False"):
        regularizer(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_outside_of_a_signal_pass_the_contexts_do_nothing():
    model = resnet(lambda block: Checkpointed(block, context_fn=checkpoint_contexts))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    # PyTorch's own behaviour: what is computed again counts the batch again
    assert model.layer1.block[0].bn1.num_batches_tracked == 2


class Cube(nn.Module):
    def forward(self, x):
        return x**3


def test_a_declared_module_keeps_its_rule_in_a_checkpointed_part():
    def model(wrap):
        torch.manual_seed(0)
        part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Cube(), nn.Conv2d(4, 4, 3))
        return nn.Sequential(wrap(part), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3))

    def again(block):
        return Checkpointed(block, context_fn=checkpoint_contexts)

    expected, found = (
        penalized(model(wrap), LRPFlex(modules={Cube: "activation"})) for wrap in (lambda part: part, again)
    )
    torch.testing.assert_close(found, expected)
