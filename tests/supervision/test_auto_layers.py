"""`layers="auto"`: which layer stands for a resolution, in one forward pass; channels last; what is no map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import families
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import get_model, resnet18
from torchvision.ops import Permute

from zennit_isnet import EpsilonZBox, ISNetRegularizer, LRPAttribution, LRPFlex, Selective, Target, ZPlus
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations import AllLogits
from zennit_isnet.gradients import GradCAM
from zennit_isnet.lrp import INPUT, Place, checkpoint_contexts

Layers = dict[str, tuple[int, int]]
"""Channels and height of each layer."""

CHOSEN: dict[str, tuple[int, Layers]] = {
    "alexnet": (96, {"features.1": (64, 23), "features.4": (192, 11), "features.11": (256, 5), "features": (256, 2)}),
    "vgg11": (32, {"features.4": (128, 16), "features.9": (256, 8), "features.14": (512, 4), "features.19": (512, 2)}),
    "vit_b_16": (32, {"conv_proj": (768, 2)}),
    "convnext_tiny": (
        64,
        {"features.2.0": (96, 16), "features.4.0": (192, 8), "features.6.0": (384, 4), "features": (768, 2)},
    ),
    "densenet121": (
        64,
        {
            "features.relu0": (64, 32),
            "features.transition1.conv": (128, 16),
            "features.transition2.conv": (256, 8),
            "features.transition3.conv": (512, 4),
            "features.denseblock4": (1024, 2),  # and not "features", to which a ReLU in place writes
        },
    ),
    "efficientnet_b0": (
        64,
        {
            "features.1": (16, 32),
            "features.2": (24, 16),
            "features.3": (40, 8),
            "features.5": (112, 4),
            "features": (1280, 2),
        },
    ),
    "googlenet": (
        64,
        {
            "conv1": (64, 32),
            "conv3": (192, 16),
            "inception3b": (480, 8),
            "inception4e": (832, 4),
            "inception5b": (1024, 2),
        },
    ),
    "inception_v3": (
        128,
        {
            "Conv2d_2b_3x3": (64, 61),
            "Conv2d_4a_3x3": (192, 28),
            "Mixed_5d": (288, 13),
            "Mixed_6e": (768, 6),
            "Mixed_7c": (2048, 2),
        },
    ),
    "mnasnet0_5": (
        64,
        {"layers.7": (8, 32), "layers.8": (16, 16), "layers.9": (24, 8), "layers.11": (48, 4), "layers": (1280, 2)},
    ),
    "mobilenet_v2": (
        64,
        {
            "features.1": (16, 32),
            "features.3": (24, 16),
            "features.6": (32, 8),
            "features.13": (96, 4),
            "features": (1280, 2),
        },
    ),
    "mobilenet_v3_small": (
        64,
        {
            "features.0": (16, 32),
            "features.1": (16, 16),
            "features.3": (24, 8),
            "features.8": (48, 4),
            "features": (576, 2),
        },
    ),
    "regnet_y_400mf": (
        64,
        {
            "stem": (32, 32),
            "trunk_output.block1": (48, 16),
            "trunk_output.block2": (104, 8),
            "trunk_output.block3": (208, 4),
            "trunk_output": (440, 2),
        },
    ),
    "resnet18": (
        64,
        {"relu": (64, 32), "layer1": (64, 16), "layer2": (128, 8), "layer3": (256, 4), "layer4": (512, 2)},
    ),
    "resnext50_32x4d": (
        64,
        {"relu": (64, 32), "layer1": (256, 16), "layer2": (512, 8), "layer3": (1024, 4), "layer4": (2048, 2)},
    ),
    "shufflenet_v2_x0_5": (
        64,
        {"conv1": (24, 32), "maxpool": (24, 16), "stage2": (48, 8), "stage3": (96, 4), "conv5": (1024, 2)},
    ),
    "squeezenet1_1": (
        64,
        {"features.1": (64, 31), "features.4": (128, 15), "features.7": (256, 7), "classifier.2": (3, 3)},
    ),
    "swin_t": (64, {"features.1": (96, 16), "features.3": (192, 8), "features.5": (384, 4), "permute": (768, 2)}),
    "swin_v2_t": (64, {"features.1": (96, 16), "features.3": (192, 8), "features.5": (384, 4), "permute": (768, 2)}),
}

SLOW = frozenset({"inception_v3", "vit_b_16", "resnext50_32x4d", "vgg11", "alexnet", "densenet121", "swin_v2_t"})


def classifier(name: str, size: int, **options: Any) -> nn.Module:
    options |= {"image_size": size} if name.startswith("vit") else {}
    options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with zoo.WithoutInitialisation():
        model = get_model(name, weights=None, num_classes=zoo.CLASSES, **options)
    return zoo.randomise(model, torch.Generator().manual_seed(0)).eval()


def explained(model: nn.Module, images: Tensor, composite: Any = None, **options: Any) -> dict[str, Tensor]:
    _, relevance = LRPAttribution(composite, layers="auto")(model, images, Target(0), **options)
    assert relevance.pop(INPUT).shape == (images.shape[0], 1, *images.shape[1:])
    return {str(place.layer): maps for place, maps in relevance.items()}


def sizes(relevance: dict[str, Tensor]) -> Layers:
    """Channels and height; every other axis is as it should be."""
    assert all(heatmaps.ndim == 5 and heatmaps.shape[:2] == (2, 1) for heatmaps in relevance.values())
    assert all(heatmaps.shape[3] == heatmaps.shape[4] for heatmaps in relevance.values())
    assert all(heatmaps.isfinite().all() and heatmaps.any() for heatmaps in relevance.values())
    return {name: (heatmaps.shape[2], heatmaps.shape[3]) for name, heatmaps in relevance.items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CHOSEN])
def test_each_resolution_is_seen_where_a_stage_ends(name: str) -> None:
    size, expected = CHOSEN[name]
    chosen = sizes(explained(classifier(name, size), torch.rand(2, 3, size, size), create_graph=False))
    assert chosen == expected
    assert list(chosen) == list(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r3d_18", {"layer1": (4, 32), "layer2": (2, 16), "layer3": (1, 8), "layer4": (1, 4)}),
        ("swin3d_t", {"features.0": (2, 16), "features.2": (2, 8), "features.4": (2, 4), "norm": (2, 2)}),
    ],
)
def test_videos_are_halved_in_height_and_width(name: str, expected: dict[str, tuple[int, int]]) -> None:
    relevance = explained(classifier(name, 64), torch.rand(1, 3, 4, 64, 64), create_graph=False)
    assert {layer: tuple(maps.shape[3:5]) for layer, maps in relevance.items()} == expected


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_layer_conserves_the_logit_without_biases(name: str, generator: torch.Generator) -> None:
    model = zoo.without_biases(families.make(name, generator))
    attribution = LRPAttribution(LRPFlex(1e-30), layers="auto")
    logits, relevance = attribution(model, families.make_images(generator), Target(1), create_graph=False)
    assert len(relevance) > 1
    for layer, heatmaps in relevance.items():
        torch.testing.assert_close(heatmaps.flatten(1).sum(1), logits[:, 1], rtol=1e-8, atol=1e-12, msg=layer)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "swin_t"])
def test_the_relevance_of_every_layer_has_a_gradient(name: str) -> None:
    model = classifier(name, 64)
    for layer, heatmaps in explained(model, torch.rand(2, 3, 64, 64)).items():
        first = next(model.parameters())
        (gradient,) = torch.autograd.grad(heatmaps.square().sum(), first, retain_graph=True)
        assert gradient.isfinite().all(), layer
        assert gradient.any(), layer


def test_paddings_belong_to_the_resolution_that_they_pad() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    assert sizes(explained(model, torch.rand(2, 3, 112, 112), create_graph=False)) == {
        "_blocks.0": (16, 56),
        "_blocks.2": (24, 28),
        "_blocks.4": (40, 14),
        "_blocks.10": (112, 7),
        "_bn1": (1280, 3),
    }


def padded_net() -> nn.Module:
    steps = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.ZeroPad2d(1), nn.Conv2d(4, 5, 3, 2), nn.ZeroPad2d(1)]
    return nn.Sequential(*steps, nn.Flatten(), nn.LazyLinear(3))


def test_a_margin_around_the_images_is_no_resolution() -> None:
    model = padded_net()
    model(torch.rand(1, 3, 32, 32))
    assert sizes(explained(model, torch.rand(2, 3, 32, 32))) == {"2": (4, 18), "4": (5, 10)}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.slow
def test_auxiliary_heads_are_left_out_in_train_mode(name: str) -> None:
    size = {"googlenet": 128, "inception_v3": 299}[name]
    model, images = classifier(name, size), torch.rand(2, 3, size, size)
    calibrated = list(explained(model, images, create_graph=False))
    assert list(explained(model.train(), images, create_graph=False)) == calibrated


class Heads(NamedTuple):
    logits: Tensor
    auxiliary: Tensor


class TwoHeads(nn.Module):
    """An auxiliary head runs last, on the last resolution, and is an outermost module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.stage = nn.Conv2d(4, 6, 3, 2, 1)
        self.head = nn.Linear(6, 3)
        self.auxiliary = nn.Conv2d(6, 3, 1)

    def forward(self, images: Tensor) -> Heads:
        maps = self.stage(self.stem(images).relu()).relu()
        return Heads(self.head(maps.mean((2, 3))), self.auxiliary(maps).mean((2, 3)))


def test_an_outermost_module_that_relevance_does_not_reach_is_none_of_the_choices() -> None:
    relevance = explained(TwoHeads(), torch.rand(2, 3, 16, 16))
    assert sizes(relevance) == {"stem": (4, 8), "stage": (6, 4)}


class Positioned(nn.Module):
    """Adds position encodings of a module's own, which run after the patches and are as large."""

    class Encoding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Conv2d(2, 4, 1)

        def forward(self, count: int, size: int) -> Tensor:
            places = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, size)] * 2, indexing="ij"))
            return self.projection(places.expand(count, -1, -1, -1))

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.encoding, self.head = nn.Conv2d(3, 4, 4, 4), self.Encoding(), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        return self.head((patches + self.encoding(len(images), patches.shape[2])).relu().mean((2, 3)))


def test_position_encodings_do_not_depend_on_the_images_and_have_no_relevance() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert sizes(explained(Positioned(), images)) == {"patches": (4, 4)}
    with pytest.raises(InvalidValueError, match=r"'encoding': .*does not depend on the images"):
        LRPAttribution(layers=["encoding"])(Positioned(), images, Target(0))


@pytest.mark.parametrize("composite", [LRPFlex(), EpsilonZBox()], ids=["signal", "relevance"])
def test_calibration_and_training_see_the_same_layers(composite: Any) -> None:
    model = classifier("resnet18", 64)
    regularizer = ISNetRegularizer(model.train(), composite=composite, layers="auto")
    measured = regularizer.calibrate([torch.rand(4, 3, 64, 64)], progress=False)
    assert list(measured) == [Place(layer) for layer in (None, *CHOSEN["resnet18"][1])]
    _, relevance = regularizer.attribution(model, torch.rand(2, 3, 64, 64), Selective())
    assert list(relevance) == list(measured)


def test_inside_of_layers_with_one_rule_the_next_place_with_relevance_is_taken() -> None:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)).eval()
    assert list(explained(model, torch.rand(2, 3, 16, 16), EpsilonZBox())) == ["1"]
    # the rule of z^B takes both layers at once, and leaves none
    assert list(explained(model, torch.rand(2, 3, 16, 16), LRPFlex(box=(0.0, 1.0)))) == []


def test_each_composite_is_seen_at_the_same_layers() -> None:
    model = classifier("resnet18", 64)
    attribution = LRPAttribution((LRPFlex(), ZPlus()), layers="auto")
    _, relevance = attribution(model, torch.rand(2, 3, 64, 64), AllLogits(), create_graph=False)
    layers = [None, *CHOSEN["resnet18"][1]]
    assert list(relevance) == [Place(layer, composite) for composite in (0, 1) for layer in layers]


def test_the_model_runs_once_and_is_untouched() -> None:
    # it has running statistics and draws dropout
    model, images = classifier("mobilenet_v3_small", 64).train(), torch.rand(2, 3, 64, 64)
    calls: list[None] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [[dict(m._forward_hooks), dict(m._forward_pre_hooks)] for m in model.modules()]
    torch.manual_seed(0)
    model(images)
    expected, after_a_call = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    torch.manual_seed(0)
    explained(model, images)
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), expected)
    torch.testing.assert_close(model.state_dict(), after_a_call)
    assert [[dict(m._forward_hooks), dict(m._forward_pre_hooks)] for m in model.modules()] == hooks


def test_an_attribution_is_bound_to_no_model() -> None:
    attribution = LRPAttribution(layers="auto")
    for name in ("resnet18", "swin_t", "resnet18"):
        size, expected = CHOSEN[name]
        _, relevance = attribution(classifier(name, size), torch.rand(1, 3, size, size), Target(0), create_graph=False)
        assert list(relevance) == [Place(layer) for layer in (None, *expected)]


@pytest.mark.parametrize(
    ("explain", "name", "last", "first"),
    [
        (lambda layer: LRPAttribution(layers=[layer]), "swin_t", "norm", "permute"),
        (GradCAM, "convnext_tiny", "features.1.0.block.1", "features.1.0.block.0"),
    ],
    ids=["LRP", "Grad-CAM"],
)
def test_channels_last_are_put_first(explain: Any, name: str, last: str, first: str) -> None:
    # of the two layers one permutes the axes of the other's output, so that both are the same maps
    model, images = classifier(name, 64), torch.rand(2, 3, 64, 64)
    heatmaps = {
        layer: explain(layer)(model, images, Target(0), create_graph=False)[1][layer] for layer in (last, first)
    }
    assert heatmaps[first].shape[3] == heatmaps[first].shape[4]
    torch.testing.assert_close(heatmaps[last], heatmaps[first], rtol=1e-4, atol=1e-7)


class BehindFirstStage(nn.Module):
    """What a Swin transformer does with its first stage, handed in with channels first."""

    def __init__(self, swin: nn.Module) -> None:
        super().__init__()
        self.swin = swin

    def forward(self, maps: Tensor) -> Tensor:
        swin = self.swin
        maps = swin.permute(swin.norm(swin.features[2:](maps.movedim(1, -1))))
        return swin.head(swin.flatten(swin.avgpool(maps)))


def test_relevance_with_channels_last_is_that_of_the_net_behind_it() -> None:
    model, images = classifier("swin_t", 64).double(), torch.rand(2, 3, 64, 64).double()
    maps = model.features[:2](images).detach().movedim(-1, 1)
    _, expected = LRPAttribution()(BehindFirstStage(model), maps, Target(0))
    torch.testing.assert_close(explained(model, images)["features.1"], expected["input"])


class Tokens(nn.Module):
    """Attention of one layer whose queries are normalised by head, as in timm's ViTs."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.q_norm = nn.LayerNorm(1)
        self.weights = nn.Softmax(-1)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        queries = tokens.unflatten(2, (16, 1)).transpose(1, 2)
        weights = self.weights(self.q_norm(queries) @ queries.transpose(2, 3))
        return self.head((weights @ queries).transpose(1, 2).flatten(2).mean(1))


def test_attention_is_no_map_of_the_images() -> None:
    # 16 patches and 16 heads, so that queries (2, 16, 16, 1) and weights (2, 16, 16, 16) have sides of 16
    assert sizes(explained(Tokens(), torch.rand(2, 3, 16, 16))) == {"patches": (16, 4)}


@pytest.mark.parametrize(
    ("make", "layer", "message"),
    [
        (
            families.vit,
            "encoder.layers.encoder_layer_0",
            r"returns tokens \(2, 5, 8\), which have no position in the image",
        ),
        (Tokens, "norm", r"'norm' returns tokens \(2, 16, 16\).*choose a layer that returns maps"),
        (Tokens, "q_norm", r"'q_norm' returns \(2, 16, 16, 1\), which is not a map of images of 16 × 16; choose"),
        (Tokens, "weights", r"'weights' returns \(2, 16, 16, 16\), which is not a map.*choose a layer"),
        (lambda: stretched_net(4), "1", r"'1' returns \(2, 4, 4, 16\), whose channels may be first or last; choose"),
        (lambda: mixed_net(8), "1", r"'1' returns \(2, 8, 8, 8\), whose channels may be first or last; choose"),
    ],
)
def test_a_layer_that_is_no_map_is_refused_by_name(make: Callable[[], nn.Module], layer: str, message: str) -> None:
    torch.manual_seed(0)
    regularizer = ISNetRegularizer(make().eval(), layers=[layer])
    with pytest.raises(InvalidValueError, match=message):
        regularizer(torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16))


def mixed_net(channels: int, norm: bool = True) -> nn.Sequential:
    """Channels last between the two permutations; the activations do not say where they stand."""
    inner = [Permute([0, 2, 3, 1]), nn.LayerNorm(channels) if norm else nn.Identity(), nn.GELU(), Permute([0, 3, 1, 2])]
    rest = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.GELU(), *inner, *rest)


def test_where_shapes_leave_it_open_a_type_that_declares_channels_decides() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert list(explained(mixed_net(6), images)) == ["5"]
    # the last Permute and both activations are (2, 8, 8, 8)
    assert list(explained(mixed_net(8), images)) == ["3"]
    assert list(explained(mixed_net(8, norm=False), images)) == ["5"]


class Branches(nn.Module):
    """A net with a finer part behind a coarser one, and a gate from a pooled map."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, 2, 1)
        self.pooled = nn.AdaptiveAvgPool2d(1)
        self.gated = nn.Conv2d(4, 5, 3, 1, 1)
        self.coarse = nn.Conv2d(5, 6, 3, 4, 1)
        self.up = nn.Upsample(scale_factor=4)
        self.decoder = nn.Conv2d(6, 7, 3, 1, 1)
        self.head = nn.Linear(7, 3)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        gated = self.gated(fine * self.pooled(fine).sigmoid())
        return self.head(self.decoder(self.up(self.coarse(gated))).mean((2, 3)))


def test_maps_that_were_coarser_before_are_left_out() -> None:
    assert sizes(explained(Branches(), torch.rand(2, 3, 32, 32))) == {"gated": (5, 16), "coarse": (6, 4)}


def stretched_net(channels: int) -> nn.Sequential:
    """Strides in height only."""
    head = nn.Linear(channels * 64, 3)
    return nn.Sequential(nn.Conv2d(3, channels, 3, (4, 1), 1), nn.GELU(), nn.Flatten(), head)


def test_named_layers_of_a_cnn_may_have_other_proportions_than_the_images() -> None:
    _, relevance = LRPAttribution(layers=["1"])(stretched_net(6), torch.rand(2, 3, 16, 16), Target(0))
    assert relevance["1"].shape == (2, 1, 6, 4, 16)


def test_a_named_layer_may_be_overwritten_behind_it() -> None:
    _, relevance = LRPAttribution(layers=["features"])(
        classifier("densenet121", 32), torch.rand(2, 3, 32, 32), Target(0)
    )
    assert relevance["features"].shape == (2, 1, 1024, 1, 1)


class Checkpointed(nn.Sequential):
    def forward(self, maps: Tensor) -> Tensor:
        return checkpoint(super().forward, maps, use_reentrant=False, context_fn=checkpoint_contexts)


@pytest.mark.parametrize("layers", ["auto", ["1.0", "1"]], ids=["auto", "named"])
def test_a_checkpointed_part_is_seen_in_its_first_run(layers: Any) -> None:
    blocks = [nn.Conv2d(4, 5, 3, 2, 1), nn.GELU(), nn.Conv2d(5, 6, 3, 2, 1), nn.GELU()]
    ends = nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(96, 3)
    images, found = torch.rand(2, 3, 32, 32), []
    for part in (nn.Sequential, Checkpointed):
        model = nn.Sequential(ends[0], part(*blocks), *ends[1:])
        _, relevance = LRPAttribution(layers=layers)(model, images, Target(0))
        model.zero_grad()
        sum(heatmaps.square().sum() for heatmaps in relevance.values()).backward()
        found.append([relevance, [p.grad for p in model.parameters()]])
    assert len(found[0][0]) > 2
    torch.testing.assert_close(found[1], found[0])


class NamedInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.input(images).mean((2, 3)))


def test_a_layer_may_be_called_input() -> None:
    assert list(explained(NamedInput(), torch.rand(2, 3, 16, 16))) == ["input"]


def test_a_model_without_maps_has_no_layers() -> None:
    assert explained(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), torch.rand(2, 3, 8, 8)) == {}


def test_auto_is_one_of_the_ways_to_choose_layers() -> None:
    assert list(explained(resnet18(num_classes=3), torch.rand(2, 3, 32, 32))) == ["relu", "layer1", "layer2", "layer3"]
