"""The regularizer on a GPU computes what it computes on the CPU: run there with ``pytest -m cuda``."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from zennit_isnet import AllLogits, ISNetRegularizer, LRPFlex, Selective, Stochastic, ZPlus

needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
OPTIONS = {
    "defaults": lambda: {"formulation": Stochastic(torch.Generator().manual_seed(1))},
    "Selective": lambda: {"formulation": Selective(), "layers": ()},
    "Dual": lambda: {"composite": (LRPFlex(reference="darkest"), ZPlus()), "formulation": AllLogits()},
}


def step(device: str, dtype: torch.dtype, name: str, layout: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of the first convolution, on the CPU in float64."""
    torch.manual_seed(0)
    model = resnet18(num_classes=5).to(device, dtype, memory_format=layout)
    images, labels = torch.rand(4, 3, 32, 32, dtype=dtype), torch.tensor([0, 1, 2, 3])
    masks = torch.zeros(4, 1, 32, 32)
    masks[..., 8:24, 8:24] = 1
    regularizer = ISNetRegularizer(model, **OPTIONS[name]())
    regularizer.calibrate([images], progress=False)  # moved to the model's device
    logits, penalty = regularizer(images.to(device, memory_format=layout), masks.to(device))
    loss = cross_entropy(logits, labels.to(device)) + penalty
    loss.backward()
    return loss.detach().cpu().double(), model.conv1.weight.grad.cpu().double()


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")  # untrained
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradient_are_those_of_the_cpu_in_float64(device: str, name: str, layout: torch.memory_format) -> None:
    expected_loss, expected = step("cpu", torch.float64, name, torch.contiguous_format)
    loss, gradient = step(device, torch.float64, name, layout)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-8, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=needs_cuda),
        pytest.param("cuda", torch.float16, marks=needs_cuda),
    ],
)
def test_autocast_with_a_gradient_scaler_trains(device: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = resnet18(num_classes=5).to(device)
    before = model.conv1.weight.detach().clone()
    images, labels = torch.rand(4, 3, 32, 32, device=device), torch.tensor([0, 1, 2, 3], device=device)
    masks = torch.zeros(4, 1, 32, 32, device=device)
    masks[..., 8:24, 8:24] = 1
    regularizer = ISNetRegularizer(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(device, init_scale=16.0, enabled=dtype == torch.float16)
    with torch.autocast(device, dtype):
        logits, penalty = regularizer(images, masks)
        loss = regularizer.balanced(cross_entropy(logits, labels), penalty)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert penalty.dtype == torch.float32
    assert loss.isfinite()
    assert not torch.equal(model.conv1.weight, before)
