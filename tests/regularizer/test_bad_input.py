"""What is not allowed is refused before anything is computed, with what came and what is allowed."""

from __future__ import annotations

import pytest
import torch
from regularizer_calls import (
    Case,
    compiled_in_place,
    construct,
    in_inference_mode,
    made_in_inference_mode,
    scripted,
    with_flags,
    with_images,
    with_loader,
    with_masks,
    with_model,
    with_output,
    with_parts,
    with_state,
    with_target,
    with_value,
)
from regularizer_models import ModelState, WithOutput, Wrapped, batch, tiny_net
from torch import nn
from torch.nn import functional as F

from zennit_isnet import (
    EpsilonZBox,
    HeatmapLoss,
    ISNetRegularizer,
    LRPAttribution,
    LRPFlex,
    Selective,
    Target,
    ZPlus,
    box_from_normalization,
)
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.errors import (
    CalibrationError,
    InvalidTypeError,
    InvalidValueError,
    ISNetError,
    UncoveredOperationError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")

ALLOWED_MASKS = "(N, 1, H, W) or (N, H, W)"
ALLOWED_IMAGES = "(N, C, H, W) or (N, C, T, H, W)"
OUTSIDE_BOX = ["[0.0], [1.0]", "images [2]", "box_from_normalization(mean, std)"]

CASES: list[Case] = [
    # images
    ("no batch", with_images(lambda x: x[0]), InvalidValueError, [ALLOWED_IMAGES, "got (3, 8, 8)"]),
    ("flat", with_images(lambda x: x.flatten(1)), InvalidValueError, [ALLOWED_IMAGES, "got (4, 192)"]),
    ("empty", with_images(lambda x: x[:0]), InvalidValueError, [ALLOWED_IMAGES, "got (0, 3, 8, 8)"]),
    ("bytes", with_images(lambda x: x.mul(255).byte()), InvalidTypeError, ["floating point", "got torch.uint8"]),
    ("integers", with_images(lambda x: x.long()), InvalidTypeError, ["floating point", "got torch.int64"]),
    ("array", with_images(lambda x: x.numpy()), InvalidTypeError, ["must be a Tensor", "got ndarray"]),
    ("list", with_images(lambda x: x.tolist()), InvalidTypeError, ["must be a Tensor", "got list"]),
    ("NaN", with_images(lambda x: with_value(x, 1, torch.nan)), InvalidValueError, ["finite", "NaN", "images [1]"]),
    ("Inf", with_images(lambda x: with_value(x, 3, torch.inf)), InvalidValueError, ["finite", "Inf", "images [3]"]),
    *[
        (f"{kind} {name}", call(make), InvalidTypeError, [f"{name} must be an ordinary tensor", f"got a {came} tensor"])
        for name, call in (("images", with_images), ("masks", with_masks))
        for kind, came, make in [
            ("meta", "meta", lambda x: x.to("meta")),
            ("sparse", "torch.sparse_coo", lambda x: x.to_sparse()),
            ("nested", "nested", lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged)),
            ("8-bit", "torch.float8_e4m3fn", lambda x: x.to(torch.float8_e4m3fn)),
            ("oneDNN", "torch._mkldnn", lambda x: x.to_mkldnn()),
        ]
    ],
    (
        "double images",
        with_images(lambda x: x.double()),
        InvalidTypeError,
        ["got torch.float64 and torch.float32"],
    ),
    # masks
    (
        "masks of another batch",
        with_masks(lambda m: m[:3]),
        InvalidValueError,
        [ALLOWED_MASKS, "N = 4", "(3, 1, 8"],
    ),
    ("coloured masks", with_masks(lambda m: m.repeat(1, 3, 1, 1)), InvalidValueError, [ALLOWED_MASKS, "(4, 3, 8, 8)"]),
    ("one mask", with_masks(lambda m: m[0, 0]), InvalidValueError, [ALLOWED_MASKS, "got (8, 8)"]),
    ("masks of a video", with_masks(lambda m: m[:, :, None]), InvalidValueError, [ALLOWED_MASKS, "(4, 1, 1, 8, 8)"]),
    *[
        (
            f"transposed masks: {name}",
            lambda model, images, masks, make=make: ISNetRegularizer(model)(images[..., :6], make(masks[..., :6].mT)),
            InvalidValueError,
            ["(4, 3, 8, 6)", f"got {came}, which looks transposed"],
        )
        for name, make, came in [
            ("of the same size", lambda m: m, (4, 1, 6, 8)),
            ("without channel", lambda m: m[:, 0], (4, 6, 8)),
            ("of another resolution", lambda m: m.repeat(1, 1, 2, 2), (4, 1, 12, 16)),
        ]
    ],
    (
        "transposed masks of videos",
        lambda model, images, masks: ISNetRegularizer(model)(images[:, :, None, :, :6], masks[:, :, None, :, :6].mT),
        InvalidValueError,
        ["(4, 3, 1, 8, 6)", "looks transposed"],
    ),
    ("masks in a list", with_masks(lambda m: list(m)), InvalidTypeError, [ALLOWED_MASKS, "got list"]),
    ("no masks", with_masks(lambda m: None), InvalidTypeError, [ALLOWED_MASKS, "got NoneType"]),
    ("complex masks", with_masks(lambda m: m + 0j), InvalidTypeError, ["bool, integer or floating", "complex64"]),
    (
        "masks up to 255",
        with_masks(lambda m: m * 255),
        InvalidValueError,
        ["1 on the object", "images 0, 1", "255"],
    ),
    (
        "soft mask",
        with_masks(lambda m: with_value(m, 2, 0.5)),
        InvalidValueError,
        ["0 elsewhere", "image 2", "0.5"],
    ),
    ("NaN mask", with_masks(lambda m: with_value(m, 3, torch.nan)), InvalidValueError, ["image 3 of 4", "nan"]),
    (
        "all-background masks",
        with_masks(lambda m: m * torch.tensor([1.0, 0.0, 1.0, 0.0]).view(4, 1, 1, 1)),
        InvalidValueError,
        ["no foreground", "images 1, 3 of 4", "at least one foreground pixel"],
    ),
    # has_mask
    ("too few flags", with_flags([True] * 3), InvalidValueError, ["has_mask", "shape (4,)", "got (3,)"]),
    ("one flag", with_flags(torch.tensor(True)), InvalidValueError, ["has_mask", "shape (4,)", "got ()"]),
    ("counted flags", with_flags([1, 0, 1, 1]), InvalidTypeError, ["has_mask must be boolean", "torch.int64"]),
    ("flags in words", with_flags("1011"), InvalidTypeError, ["has_mask must be boolean", "'1011'"]),
    ("ragged flags", with_flags([[True], []]), InvalidTypeError, ["has_mask must be boolean", "[[True], []]"]),
    (
        "sparse flags",
        lambda model, images, masks: ISNetRegularizer(model)(images, masks, torch.ones(4).bool().to_sparse()),
        InvalidTypeError,
        ["has_mask must be an ordinary tensor"],
    ),
    # the box
    (
        "below the box",
        with_parts(composite=LRPFlex(box=(0.5, 1.0))),
        InvalidValueError,
        ["[0.5], [1.0]", "images [0"],
    ),
    (
        "above the box",
        lambda model, images, masks: ISNetRegularizer(model, composite=LRPFlex(box=(0.0, 1.0)))(
            with_value(images, 2, 1.5), masks
        ),
        InvalidValueError,
        [*OUTSIDE_BOX, "to 1.5"],
    ),
    (
        "above the box in calibration",
        lambda model, images, masks: ISNetRegularizer(model, composite=LRPFlex(box=(0.0, 1.0))).calibrate(
            [with_value(images, 2, 1.5)], progress=False
        ),
        InvalidValueError,
        OUTSIDE_BOX,
    ),
    (
        "a box for two channels",
        with_parts(composite=LRPFlex(box=([0.0, 0.0], [1.0, 1.0]))),
        InvalidValueError,
        ["bounds for the images' 3 channels; got 2", "the images' 3 channels"],
    ),
    ("an empty box", construct(LRPFlex, box=(1.0, 1.0)), InvalidValueError, ["low < high", "got [1.0] and [1.0]"]),
    (
        "a box upside down",
        construct(LRPFlex, box=([0, 2.0], [1, 1.0])),
        InvalidValueError,
        ["low < high", "[0.0, 2"],
    ),
    ("half a box", construct(LRPFlex, box=1.0), InvalidTypeError, ["pair (low, high)", "got 1.0"]),
    (
        "no deviation",
        construct(box_from_normalization, 0.5, 0.0),
        InvalidValueError,
        ["std must be positive", "0.0"],
    ),
    # numbers
    *[
        (
            f"epsilon {e}",
            construct(LRPFlex, epsilon=e),
            InvalidValueError,
            ["epsilon must lie in [0, inf)", f"got {e!r}"],
        )
        for e in (-0.01, float("inf"), float("nan"))
    ],
    *[
        (f"epsilon {e}", construct(LRPFlex, epsilon=e), InvalidTypeError, ["must be a number in [0, inf)", f"{e!r}"])
        for e in ("small", True)
    ],
    *[
        (f"epsilon {e}", construct(composite, epsilon=e), InvalidValueError, ["lie in [1e-30, 1e+30]", f"got {e!r}"])
        for e in (1e-50, 1e300)
        for composite in (LRPFlex, EpsilonZBox, ZPlus)
    ],
    *[
        (f"epsilon_ratio {e}", construct(LRPFlex, epsilon_ratio=e), InvalidValueError, ["epsilon_ratio must lie in"])
        for e in (0.0, -1.0, float("inf"))
    ],
    (
        "unknown reference",
        construct(LRPFlex, reference="black"),
        InvalidValueError,
        ["reference must be one of 'darkest'", "got 'black'"],
    ),
    ("infinite reference", construct(LRPFlex, reference=float("inf")), InvalidValueError, ["reference must be finite"]),
    *[
        (f"decay {d}", construct(HeatmapLoss, decay=d), InvalidValueError, ["decay must lie in (0, 1]", f"got {d}"])
        for d in (0.0, -0.5, 1.01, float("nan"))
    ],
    ("C1 in words", construct(RelevanceRange, "1", 2.0), InvalidTypeError, ["c1 must be a number", "got str: '1'"]),
    ("C1 equal to C2", construct(RelevanceRange, 2.0, 2.0), CalibrationError, ["0 < c1 < c2", "c1 = 2, c2 = 2"]),
    ("C1 above C2", construct(RelevanceRange, 3.0, 2.0), CalibrationError, ["0 < c1 < c2", "c1 = 3, c2 = 2"]),
    (
        "C1 above C2 in the loss",
        lambda model, images, masks: HeatmapLoss()(images[:, None], masks, c1=3.0, c2=2.0),
        InvalidValueError,
        ["c1 must be less than c2", "c1=3.0", "c2=2.0"],
    ),
    # targets
    ("unknown class", with_target(3), InvalidValueError, ["lie in 0, ..., 2", "got [3]"]),
    ("negative class", with_target(-1), InvalidValueError, ["at least 0", "got -1"]),
    ("too few targets", with_target(torch.tensor([0, 1])), InvalidValueError, ["shape (4,)", "got (2,)"]),
    ("target name", with_target("cat"), InvalidTypeError, ["classes must be an int", "got str: 'cat'"]),
    (
        "too few targets in training",
        with_parts(formulation=Target(torch.tensor([0, 1]))),
        InvalidValueError,
        ["shape (4,)", "got (2,)"],
    ),
    *[
        (f"seeds of {came}", with_parts(formulation=make), error, ["must return", "seeds (N, K, C)", f"got {came}"])
        for came, error, make in [
            ("(4, 3)", InvalidValueError, torch.ones_like),
            ("(4, 1, 1)", InvalidValueError, lambda y: y[:, None, :1]),
            ("(1, 1, 3)", InvalidValueError, lambda y: y[None, :1]),
            ("(4, 0, 3)", InvalidValueError, lambda y: y[:, None][:, :0]),
            ("torch.int64", InvalidTypeError, lambda y: torch.ones_like(y[:, None]).long()),
            ("NoneType", InvalidTypeError, lambda y: None),
        ]
    ],
    # parts
    ("a model's name", lambda *_: ISNetRegularizer("resnet18"), InvalidTypeError, ["torch.nn.Module", "got str"]),
    (
        "composite and attribution",
        with_parts(composite=LRPFlex(), attribution=LRPAttribution()),
        InvalidTypeError,
        ["pass attribution, or composite and layers"],
    ),
    (
        "a composite's name",
        with_parts(composite="lrp_flex"),
        InvalidTypeError,
        ["must be differentiable, such as LRPFlex()", "got str"],
    ),
    *[
        (f"a {part}'s name", with_parts(**{part: "best"}), InvalidTypeError, [f"{part} must be callable", "got str"])
        for part in ("formulation", "loss", "attribution")
    ],
    *[
        (
            f"a loss that returns {came}",
            with_parts(loss=lambda r, *_, make=make: make(r.flatten(1).sum(1))),
            InvalidValueError,
            ["loss must return one value per image, shape (4,)", f"got {came}"],
        )
        for came, make in [
            ("shape (4, 1)", lambda x: x[:, None]),
            ("shape ()", lambda x: x.mean()),
            ("float", lambda x: 1.0),
        ]
    ],
    # models
    (
        "scripted",
        with_model(scripted),
        UnsupportedModelError,
        ["TopLevelTracedModule", "pass the original Python module"],
    ),
    (
        "compiled",
        with_model(lambda: torch.compile(tiny_net())),
        UnsupportedModelError,
        ["OptimizedModule", "_orig"],
    ),
    (
        "compiled inside",
        with_model(lambda: nn.Sequential(torch.compile(tiny_net()))),
        UnsupportedModelError,
        ["0 (OptimizedModule)", "does not support double backward"],
    ),
    ("compiled in place", with_model(compiled_in_place), UnsupportedModelError, ["0 (Conv2d)", "`compile()`"]),
    (
        "DataParallel",
        with_model(lambda: nn.DataParallel(tiny_net())),
        UnsupportedModelError,
        ["(DataParallel)", "use DistributedDataParallel"],
    ),
    ("softplus", with_model(lambda: Wrapped(F.softplus)), UncoveredOperationError, ["softplus", "no rule covers it"]),
    (
        "sigmoid network",
        with_model(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 3))),
        UncoveredOperationError,
        ["carries no signal", "at the gate 1 (Sigmoid): torch.sigmoid", "an activation with a(0) = 0"],
    ),
    # outputs
    ("a dict", with_output(lambda y: {"a": y, "b": y}), InvalidTypeError, ["(N, C)", "'logits'", "got dict with a, b"]),
    ("a list", with_output(lambda y: [y]), InvalidTypeError, ["(N, C)", "got list"]),
    ("a tuple", with_output(lambda y: (y, y)), InvalidTypeError, ["(N, C)", "got tuple"]),
    ("nothing", with_output(lambda y: None), InvalidTypeError, ["(N, C)", "got NoneType"]),
    ("a map", with_output(lambda y: y[..., None, None]), InvalidValueError, ["shape (N, C)", "got (4, 3, 1, 1)"]),
    ("one number", with_output(lambda y: y[:, 0]), InvalidValueError, ["shape (N, C)", "got (4,)"]),
    (
        "one logit",
        lambda model, images, masks: ISNetRegularizer(WithOutput(lambda y: y[:, :1]), formulation=Selective())(
            images, masks
        ),
        InvalidValueError,
        ["at least two", "(4, 1)", "Stochastic()"],
    ),
    # calibration
    ("batches in dicts", with_loader(lambda x: [{"image": x}]), InvalidTypeError, ["must be a Tensor", "got dict"]),
    ("empty batches", with_loader(lambda x: [()]), InvalidTypeError, ["must be a Tensor", "got tuple"]),
    ("NaN in a batch", with_loader(lambda x: [x, x * torch.nan]), InvalidValueError, ["finite", "[0, 1, 2, 3]"]),
    ("one image", with_loader(lambda x: [x[:1]]), CalibrationError, ["at least 2 images", "got 1"]),
    # state
    ("no state", with_state(None), InvalidValueError, ["'ranges' and 'formulation'", "got NoneType"]),
    ("half a state", with_state({"ranges": {}}), InvalidValueError, ["'ranges' and 'formulation'", "got ['ranges']"]),
    (
        "a state with other numbers",
        with_state({"ranges": [{"layer": None, "c1": 1.0, "c3": 2.0}], "formulation": {}}),
        InvalidValueError,
        ["c1, c2, mean, std, count", "'c3'"],
    ),
    (
        "a state with words",
        with_state({"ranges": [{"layer": None, "c1": "1", "c2": "2"}], "formulation": {}}),
        InvalidValueError,
        ["c1, c2", "'1'"],
    ),
    (
        "a state with an empty range",
        with_state({"ranges": [{"layer": None, "c1": 2.0, "c2": 1.0}], "formulation": {}}),
        CalibrationError,
        ["0 < c1 < c2", "c1 = 2, c2 = 1"],
    ),
    (
        "the state of another formulation",
        with_state({"ranges": [], "formulation": {}}),
        InvalidValueError,
        ["Stochastic", "['generator']"],
    ),
    # inference mode
    *[
        (
            f"inference mode: {name}",
            in_inference_mode(method),
            InvalidValueError,
            ["inference_mode", "use torch.no_grad"],
        )
        for name, method in {
            "call": lambda regularizer, images, masks: regularizer(images, masks),
            "heatmap": lambda regularizer, images, masks: regularizer.heatmap(images),
            "calibrate": lambda regularizer, images, masks: regularizer.calibrate([images], progress=False),
        }.items()
    ],
    ("images of inference mode", made_in_inference_mode, InvalidValueError, ["made in torch.inference_mode", "clone"]),
]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize(("call", "error", "fragments"), [pytest.param(*case, id=name) for name, *case in CASES])
def test_is_refused_with_what_came_and_what_is_allowed(call, error, fragments):
    model, (images, masks) = tiny_net(), batch(size=8)
    images_before, masks_before, before = images.clone(), masks.clone(), ModelState(model)

    with pytest.raises(error) as caught:
        call(model, images, masks)

    assert isinstance(caught.value, ISNetError)
    assert isinstance(caught.value, (ValueError, TypeError))
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert before.differences(ModelState(model)) == []
    assert torch.equal(images, images_before)
    assert torch.equal(masks, masks_before)
