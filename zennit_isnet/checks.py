"""Checks of what a user hands in: every message shows what came and what is allowed."""

import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise unless `value` is one of the values of the literal type `choices`.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    choices : typing.Literal
        The type whose values are legal.

    Raises
    ------
    InvalidValueError
        If `value` is not legal; the message lists the legal values.
    """
    legal = get_args(choices)
    if value not in legal:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, legal))}; got {value!r}")


def check_number(name: str, value: Any, *, low: float = 0.0, high: float = math.inf, include_low: bool = False) -> None:
    """Raise unless `value` is a real number above `low`, at most `high`, and finite.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    low, high : float, default=0.0, inf
        The allowed interval; `high` itself is allowed where it is finite.
    include_low : bool, default=False
        Whether `low` itself is allowed.

    Raises
    ------
    InvalidTypeError
        If `value` is not a number.
    InvalidValueError
        If `value` lies outside of the interval.
    """
    opening, closing = "[" if include_low else "(", "]" if high < math.inf else ")"
    interval = f"{opening}{low:g}, {high:g}{closing}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name} must be a number in {interval}; got {type(value).__name__}: {value!r}")
    number = float(value)
    above = number >= low if include_low else number > low
    if not (above and number <= high and math.isfinite(number)):
        raise InvalidValueError(f"{name} must lie in {interval}; got {value!r}")


def check_epsilon(name: str, value: Any, *, include_zero: bool = False) -> None:
    """Raise unless `value` is a number that is no zero and no infinity in float32, nor is what it divides.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    include_zero : bool, default=False
        Whether 0 is allowed.

    Raises
    ------
    InvalidTypeError
        If `value` is not a number.
    InvalidValueError
        If it is not in the range.
    """
    check_number(name, value, include_low=include_zero)
    if float(value) != 0 and not 1e-30 <= value <= 1e30:
        zero = "be 0 or " if include_zero else ""
        raise InvalidValueError(f"{name} must {zero}lie in [1e-30, 1e+30], for the range of float32; got {value!r}")


def check_count(name: str, value: object, *, low: int = 1) -> None:
    """Raise unless `value` is an int of at least `low`.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    low : int, default=1
        The smallest number allowed.

    Raises
    ------
    InvalidTypeError
        If `value` is not an int.
    InvalidValueError
        If `value` is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f"{name} must be an int of at least {low}; got {type(value).__name__}: {value!r}")
    if value < low:
        raise InvalidValueError(f"{name} must be at least {low}; got {value}")


def check_model(model: Any) -> None:
    """Raise for models whose operations cannot be seen.

    Raises
    ------
    InvalidTypeError
        If `model` is no module.
    UnsupportedModelError
        If it, or a module in it, is compiled, scripted, replicated by `torch.nn.DataParallel`, sharded by
        ``fully_shard``, or a `DistributedDataParallel` with a static graph.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        problem = _problem_of(module)
        if problem:
            raise UnsupportedModelError(f"{name or '(the model)'} ({type(module).__name__}): {problem}")


def _problem_of(module: nn.Module) -> str | None:
    """Return why the operations of a module cannot be seen, or its gradients be taken, and the remedy."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module hides its operations; hand in the Python module"
    if type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
        return "torch.compile has no double backward; hand in the module that was compiled, `._orig_mod`"
    if getattr(module, "_compiled_call_impl", None) is not None:
        return "torch.compile has no double backward; do not call `compile()` on the module"
    if isinstance(module, nn.DataParallel):
        return "replicas of DataParallel run in threads of their own; use DistributedDataParallel"
    # FSDP2's modules have the method, FSDP1's the attribute
    if hasattr(module, "set_requires_gradient_sync") or hasattr(module, "_fsdp_wrapped_module"):
        return "FSDP frees parameters that loss.backward() needs; use DistributedDataParallel, ZeroRedundancyOptimizer"
    if isinstance(module, DistributedDataParallel) and module.static_graph:
        return "with static_graph=True gradients are not averaged; leave it out, or use find_unused_parameters=True"
    return None


def check_callable(**parts: Any) -> None:
    """Raise for a replaceable part that is neither None nor callable.

    Raises
    ------
    InvalidTypeError
        If one cannot be called.
    """
    for name, part in parts.items():
        if not (part is None or callable(part)):
            raise InvalidTypeError(f"{name} must be callable, or None for the default, got {type(part).__name__}")


def check_images(images: Tensor, *, values: bool) -> Tensor:
    """Return images as a plain tensor.

    Parameters
    ----------
    images : Tensor
        Floating, ``(N, C, H, W)`` or ``(N, C, T, H, W)``, finite.
    values : bool
        Whether to look at the values, which synchronises an accelerator.

    Raises
    ------
    InvalidTypeError
        If `images` is no floating tensor, or float16 outside of autocast.
    InvalidValueError
        If the shape is wrong or a value is NaN or infinite, or in or from `torch.inference_mode`.
    """
    check_differentiable("images", images, " (N, C, H, W)")
    if images.ndim not in (4, 5) or images.numel() == 0:
        raise InvalidValueError(
            f"images must have shape (N, C, H, W) or (N, C, T, H, W), none of them 0, got {tuple(images.shape)}"
        )
    if values:
        broken = ~images.detach().isfinite().flatten(1).all(1)
        if bool(broken.any()):
            raise InvalidValueError(f"images must be finite, NaN or Inf in images {broken.nonzero()[:, 0].tolist()}")
    return images.as_subclass(Tensor)


def check_differentiable(name: str, value: Any, shape: str = "") -> None:
    """Raise for anything that heatmaps cannot be made of; `name` and `shape` are for the message.

    Raises
    ------
    InvalidTypeError
        If `value` is no floating tensor, or float16 outside of autocast.
    InvalidValueError
        In `torch.inference_mode`, or for a tensor made in it.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidValueError("heatmaps need gradients, which torch.inference_mode forbids; use torch.no_grad")
    if not isinstance(value, Tensor):
        raise InvalidTypeError(f"{name} must be a Tensor{shape}, got {type(value).__name__}")
    if value.is_inference():
        raise InvalidValueError(f"{name} must be normal tensors, got one made in torch.inference_mode; clone it")
    check_dense(name, value)
    if not value.is_floating_point():
        raise InvalidTypeError(f"{name} must be floating point (scale them first), got {value.dtype}")
    if value.dtype == torch.float16 and not torch.is_autocast_enabled(value.device.type):
        within = f"torch.autocast({value.device.type!r}, torch.float16)"
        remedy = f"keep model and {name} in float32 and call within {within}, or use bfloat16"
        raise InvalidTypeError(f"signals leave the range of float16; {remedy}; got {name} of torch.float16")


def check_dense(name: str, value: Tensor) -> None:
    """Raise `InvalidTypeError` for a tensor without values, sparse, nested, quantized, or of eight-bit floats."""
    kinds = {"nested": value.is_nested, "meta": value.is_meta, str(value.layout): value.layout != torch.strided}
    kinds[str(value.dtype)] = value.is_quantized or (value.is_floating_point() and value.element_size() < 2)
    came = [kind for kind, is_so in kinds.items() if is_so]
    if came:
        remedy = "to_dense(), to_padded_tensor(0), dequantize() or float() makes one"
        raise InvalidTypeError(f"{name} must be an ordinary tensor, got a {came[0]} tensor; {remedy}")


def check_masks(masks: Any, images: Tensor) -> Tensor:
    """Return foreground masks as a plain tensor ``(N, 1, H, W)``, or ``(N, 1, T, H, W)`` for videos.

    A video's mask ``(N, 1, H, W)`` or ``(N, H, W)`` holds for all its frames. Masks may have another resolution than
    the images, but neither their proportions turned by 90° nor another number of frames.

    Raises
    ------
    InvalidTypeError
        If `masks` is no tensor.
    InvalidValueError
        If their number, dimensions, orientation, frames or device do not fit the images.
    """
    if not isinstance(masks, Tensor):
        raise InvalidTypeError(f"masks must be a Tensor (N, 1, H, W) or (N, H, W), got {type(masks).__name__}")
    check_dense("masks", masks)
    result = masks.as_subclass(Tensor)
    while 3 <= result.ndim < images.ndim:
        result = result.unsqueeze(1)
    if result.ndim == 5 and result.shape[2] == 1:
        result = result.expand(-1, -1, images.shape[2], -1, -1)
    shape, came = tuple(images.shape), tuple(masks.shape)
    if result.ndim != images.ndim or result.shape[1] != 1 or result.shape[0] != images.shape[0]:
        legal = f"(N, 1, H, W) or (N, H, W) with N = {shape[0]} (and T for videos)"
        raise InvalidValueError(f"masks must have shape {legal} for images of shape {shape}, got {came}")
    if looks_turned(result.shape, images.shape):
        problem = f"masks must not be turned against images of shape {shape}"
        raise InvalidValueError(f"{problem}; got {came}, which looks transposed: swap its last two dimensions")
    if images.ndim == 5 and result.shape[2] != images.shape[2]:
        legal = f"one frame or T = {shape[2]} of them for videos of shape {shape}"
        raise InvalidValueError(f"masks of videos must have {legal}, got {result.shape[2]} in {came}")
    if result.device != images.device:
        raise InvalidValueError(f"masks must be on the images' device {images.device}, got {result.device}")
    return result


def looks_turned(mask: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a mask has the proportions of its image turned by 90°; both shapes end with height and width."""
    return mask[-2] != mask[-1] and mask[-2] * image[-2] == mask[-1] * image[-1]


def fitted_bound(bound: Tensor, images: Tensor) -> Tensor:
    """Return a bound ``(C, H, W)`` or scalar in the images' dtype, broadcastable to videos if they are videos."""
    bound = bound.to(images)
    return bound.unsqueeze(1) if bound.ndim == 3 and images.ndim == 5 else bound


def check_in_box(images: Tensor, box: tuple[Tensor, Tensor]) -> None:
    """Raise if an image leaves the box of the z^B rule.

    Raises
    ------
    InvalidValueError
        If a value lies outside, or the box has bounds for another number of channels.
    """
    low, high = (fitted_bound(bound, images) for bound in box)
    for bound in (low, high):
        if bound.ndim >= 3 and bound.shape[0] not in (1, images.shape[1]):
            raise InvalidValueError(f"box has bounds for {bound.shape[0]} channels, images have {images.shape[1]}")
    # room for the rounding of the normalisation
    slack = 1e-4 * (high - low)
    outside = ((images < low - slack) | (images > high + slack)).flatten(1).any(1)
    if bool(outside.any()):
        legal = f"[{low.flatten().tolist()}, {high.flatten().tolist()}] of the z^B rule"
        came = f"range of the batch: {images.min().item():.4g} to {images.max().item():.4g}"
        problem = f"images must lie in the box {legal}, but images {outside.nonzero()[:, 0].tolist()} do not ({came})"
        raise InvalidValueError(f"{problem}; box_from_normalization(mean, std) gives the box of normalised images")


def check_has_mask(has_mask: Any, count: int, device: torch.device) -> Tensor:
    """Return `has_mask` as booleans ``(N,)`` on `device`; None means that every image has a mask.

    Raises
    ------
    InvalidTypeError
        If it is not boolean.
    InvalidValueError
        If it has not one entry for each image.
    """
    if has_mask is None:
        return torch.ones(count, dtype=torch.bool, device=device)
    try:
        flags = torch.as_tensor(has_mask, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"has_mask must be boolean, one for each image, got {has_mask!r}") from error
    check_dense("has_mask", flags)
    if flags.dtype != torch.bool:
        raise InvalidTypeError(f"has_mask must be boolean, one for each image, got {flags.dtype}")
    if flags.shape != (count,):
        raise InvalidValueError(f"has_mask must have shape ({count},), got {tuple(flags.shape)}")
    return flags


def as_floats(name: str, value: Any) -> Tensor:
    """Return a floating tensor in float32, or as it is in float64.

    Raises
    ------
    InvalidTypeError
        If `value` is no floating tensor.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise InvalidTypeError(f"{name} must be a floating tensor; got {kind_of(value)}")
    return value if value.dtype == torch.float64 else value.to(torch.float32)


def as_integers(
    name: str,
    value: Any,
    shape: Sequence[int] | None = None,
    device: torch.device | None = None,
    count: int | None = None,
    *,
    booleans: bool = True,
) -> Tensor:
    """Return a tensor of integers or booleans in int64, in which no comparison with `count` can overflow.

    Parameters
    ----------
    name : str
        Name of the argument, for the messages.
    value : object
        What the caller passed.
    shape, device : optional
        Where the values must fit; not checked if None.
    count : int, optional
        The values must be less; by default they must only not be negative. They are read, so an accelerator waits.
    booleans : bool, default=True
        Whether booleans count as 0 and 1, as labels of two classes may.

    Raises
    ------
    InvalidTypeError
        If `value` is no tensor of integers.
    InvalidValueError
        If it does not fit, or a value is out of range.
    """
    refused = () if booleans else (torch.bool,)
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype in refused:
        raise InvalidTypeError(f"{name} must be a tensor of integers; got {kind_of(value)}")
    if shape is not None:
        check_fits(name, value, shape, device)
    values = value.long()
    outside = values[(values < 0) if count is None else (values < 0) | (values >= count)]
    if outside.numel():
        legal = "not be negative" if count is None else f"lie in 0, ..., {count - 1}"
        raise InvalidValueError(f"{name} must {legal}; got {outside.unique().tolist()}")
    return values


def check_fits(name: str, value: Tensor, shape: Sequence[int], device: torch.device | None) -> None:
    """Raise `InvalidValueError` unless a tensor has this shape and is on this device."""
    if tuple(value.shape) != tuple(shape) or value.device != device:
        legal = f"shape {tuple(shape)} on {device}"
        raise InvalidValueError(f"{name} must have {legal}; got {tuple(value.shape)} on {value.device}")


def check_logits(name: str, logits: Any, *, values: bool = False) -> None:
    """Raise unless `logits` is a floating tensor of shape (N, C) with at least one class.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    logits : object
        What the caller passed.
    values : bool, default=False
        Whether the values are read too, and must be finite.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If its type or dtype, or its shape or values, are others.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise InvalidTypeError(f"{name} must be a floating tensor; got {kind_of(logits)}")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise InvalidValueError(f"{name} must have shape (N, C) with C >= 1; got {tuple(logits.shape)}")
    if values and not bool(logits.isfinite().all()):
        raise InvalidValueError(f"{name} must be finite; got NaN or Inf")


def check_state(owner: Any, state: Any) -> None:
    """Raise unless `state` is a mapping with the keys of the owner's own ``state_dict()``.

    Raises
    ------
    InvalidValueError
        If it has others, as that of an object that was built with other arguments.
    """
    name, expected = type(owner).__name__, sorted(owner.state_dict())
    came = sorted(state) if isinstance(state, Mapping) else kind_of(state)
    if came != expected:
        raise InvalidValueError(f"the state of {name}, built alike, must have the keys {expected}; got {came}")


def kind_of(value: object) -> str:
    """Return the dtype of a tensor, the type of anything else, for a message."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


class Described:
    """Shows an object as the call that makes it, without the arguments that have their defaults."""

    def __repr__(self) -> str:
        options = inspect.signature(type(self)).parameters.values()
        given = {option: _shown(getattr(self, option.name, None)) for option in options}
        told = [f"{o.name}={text}" for o, text in given.items() if text not in ("None", "{}", "[]", repr(o.default))]
        return f"{type(self).__name__}({', '.join(told)})"


class Drawing(Described):
    """Draws random numbers, by a generator of its own unless it has none.

    Parameters
    ----------
    generator : torch.Generator, optional
        On the CPU, so that the draws do not depend on a model's device. Default None: the global generator.

    Raises
    ------
    InvalidTypeError
        If `generator` is neither None nor a `torch.Generator`.
    InvalidValueError
        If it is on another device.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InvalidTypeError(f"generator must be a torch.Generator or None; got {type(generator).__name__}")
        if generator is not None and generator.device.type != "cpu":
            raise InvalidValueError(f"generator must be on the CPU, as torch.Generator() is; got {generator.device}")
        self.generator = generator

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generator; empty for the global generator, which belongs to the user."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of the generator, so that the draws go on as they would have.

        Parameters
        ----------
        state : mapping of str to Tensor
            From the `state_dict` of an object that had a generator if and only if this one has.

        Raises
        ------
        InvalidValueError
            If `state` has other keys than this object's own state.
        """
        check_state(self, state)
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, the generator as its state in bytes: PyTorch cannot hand one to a spawned process."""
        drawn = None if self.generator is None else bytes(self.generator.get_state().tolist())
        return {**vars(self), "generator": drawn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        drawn = state["generator"]
        generator = None if drawn is None else torch.Generator().set_state(torch.tensor([*drawn], dtype=torch.uint8))
        self.__dict__ |= {**state, "generator": generator}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, torch.Generator):
        return f"<generator, initial seed {value.initial_seed()}>"
    return repr(value.squeeze().tolist() if isinstance(value, Tensor) else value)
