"""The value of the images that carries no relevance."""

from __future__ import annotations

import nets
import pytest
import torch
from torch.nn import functional as F

from zennit_isnet import LRPAttribution, LRPFlex, Original
from zennit_isnet.errors import InvalidValueError


def relevance_of(model, images, **options):
    return LRPAttribution(LRPFlex(**options))(model, images, Original(), create_graph=False)[1]["input"]


@pytest.fixture
def model(generator):
    return nets.make("plain", generator, training=False)


@pytest.mark.parametrize(
    "reference", [0.25, (0.1, -0.2, 0.3), torch.tensor([0.1, -0.2, 0.3])], ids=["one", "three", "t"]
)
def test_relevance_is_that_of_the_distance_from_the_reference(model, reference, generator):
    images = nets.make_images(generator)
    plain = relevance_of(model, images)
    distance = images - torch.as_tensor(reference, dtype=images.dtype).view(-1, 1, 1)
    expected = plain * (distance / images).unsqueeze(1)
    torch.testing.assert_close(relevance_of(model, images, reference=reference), expected, rtol=1e-9, atol=1e-12)


def test_the_darkest_value_of_each_channel_of_each_image_carries_none(model, generator):
    images = nets.make_images(generator)
    relevance = relevance_of(model, images, reference="darkest")
    darkest = images == images.amin((2, 3), keepdim=True)
    assert not relevance[darkest.unsqueeze(1).expand_as(relevance)].any()
    assert relevance[~darkest.unsqueeze(1).expand_as(relevance)].any()
    alone = torch.cat([relevance_of(model, image.unsqueeze(0), reference="darkest") for image in images])
    torch.testing.assert_close(alone, relevance)


def test_with_the_darkest_value_it_makes_no_difference_who_normalises_the_images(model, generator):
    """Normalised images explain as raw images do, if the first layer takes the normalisation back."""
    raw = torch.rand(4, nets.CHANNELS, nets.SIZE, nets.SIZE, generator=generator, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))

    class Denormalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images * std + mean)

    expected = relevance_of(model, raw, reference="darkest")
    torch.testing.assert_close(
        relevance_of(Denormalised(), (raw - mean) / std, reference="darkest"), expected, rtol=1e-9, atol=1e-12
    )
    assert not torch.allclose(relevance_of(Denormalised(), (raw - mean) / std), expected)


def test_the_gradient_of_the_relevance_knows_the_reference(model, generator):
    images = nets.make_images(generator)
    _, relevance = LRPAttribution(LRPFlex(reference=0.5))(model, images, Original())
    _, plain = LRPAttribution(LRPFlex())(model, images, Original())
    weights = [p for p in model.parameters() if p.ndim > 1]
    found = torch.autograd.grad(relevance["input"].square().sum(), weights)
    expected = torch.autograd.grad((plain["input"] * ((images - 0.5) / images).unsqueeze(1)).square().sum(), weights)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def test_of_vectors_there_is_no_darkest_value():
    message = r'reference="darkest" needs images \(N, C, …\); got shape \(2, 4\)'
    model = torch.nn.Linear(4, 2)
    with LRPFlex(reference="darkest").context(model), pytest.raises(InvalidValueError, match=message):
        model(torch.ones(2, 4, requires_grad=True))


def test_zb_has_a_zero_of_its_own():
    with pytest.raises(InvalidValueError, match="pass box or reference, not both"):
        LRPFlex(box=(0.0, 1.0), reference=0.5)


def test_relevance_of_a_first_layer_by_hand():
    images = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0, 2.0, 3.0]]))
    relevance = relevance_of(model, images, reference="darkest")
    assert relevance.flatten().tolist() == [0.0, -1.0, 4.0, 12.0]
    assert F.relu(relevance).sum() == 16.0


def test_the_gradient_at_the_images_knows_how_the_darkest_value_changes(model, generator):
    images = nets.make_images(generator)
    tint = torch.zeros(nets.CHANNELS, 1, 1, dtype=torch.float64, requires_grad=True)

    def explained(tint):
        _, relevance = LRPAttribution(LRPFlex(reference="darkest"))(model, images + tint, Original())
        return relevance["input"].square().sum()

    (found,) = torch.autograd.grad(explained(tint), tint)
    step = 1e-6 * torch.eye(nets.CHANNELS, dtype=torch.float64).view(-1, nets.CHANNELS, 1, 1)
    expected = torch.stack([(explained(s) - explained(-s)).detach() / 2e-6 for s in step])
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-8)
