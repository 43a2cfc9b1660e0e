"""Checks of user input: every message shows what was passed and what is allowed."""

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
        If `value` lies outside the interval.
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
    """Raise unless `value` is a number that is nonzero and finite in float32, and so is its inverse.

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
        If it is outside the range.
    """
    check_number(name, value, include_low=include_zero)
    if float(value) != 0 and not 1e-30 <= value <= 1e30:
        zero = "be 0 or " if include_zero else ""
        raise InvalidValueError(f"{name} must {zero}lie in [1e-30, 1e+30], the safe range of float32; got {value!r}")


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
    """Raise for models whose operations cannot be observed.

    Raises
    ------
    InvalidTypeError
        If `model` is not a module.
    UnsupportedModelError
        If it, or one of its modules, is compiled, scripted, replicated by `torch.nn.DataParallel`, sharded by
        ``fully_shard``, or a `DistributedDataParallel` with a static graph.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    for name, module in model.named_modules():
        problem = _problem_of(module)
        if problem:
            raise UnsupportedModelError(f"{name or '(the model)'} ({type(module).__name__}): {problem}")


def _problem_of(module: nn.Module) -> str | None:
    """Return why a module's operations cannot be observed or its gradients not be taken, with the remedy."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module hides its operations; pass the original Python module"
    if type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
        return "torch.compile does not support double backward; pass the original module, `._orig_mod`"
    if getattr(module, "_compiled_call_impl", None) is not None:
        return "torch.compile does not support double backward; do not call `compile()` on the module"
    if isinstance(module, nn.DataParallel):
        return "DataParallel runs replicas in separate threads; use DistributedDataParallel"
    # FSDP2's modules have the method, FSDP1's the attribute
    if hasattr(module, "set_requires_gradient_sync") or hasattr(module, "_fsdp_wrapped_module"):
        return "FSDP frees parameters that loss.backward() needs; use DistributedDataParallel, ZeroRedundancyOptimizer"
    if isinstance(module, DistributedDataParallel) and module.static_graph:
        return "with static_graph=True gradients are not averaged; remove it, or use find_unused_parameters=True"
    return None


def check_callable(**parts: Any) -> None:
    """Raise for a replaceable part that is neither None nor callable.

    Raises
    ------
    InvalidTypeError
        If a part is not callable.
    """
    for name, part in parts.items():
        if not (part is None or callable(part)):
            raise InvalidTypeError(f"{name} must be callable, or None for the default; got {type(part).__name__}")


def check_images(images: Tensor, *, values: bool) -> Tensor:
    """Return images as a plain tensor.

    Parameters
    ----------
    images : Tensor
        Floating point and finite, ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
    values : bool
        Whether to check the values, which synchronises an accelerator.

    Raises
    ------
    InvalidTypeError
        If `images` is not a floating tensor, or float16 outside autocast.
    InvalidValueError
        If the shape is wrong, a value is NaN or infinite, or in or from `torch.inference_mode`.
    """
    check_differentiable("images", images, " (N, C, H, W)")
    if images.ndim not in (4, 5) or images.numel() == 0:
        raise InvalidValueError(
            f"images must have shape (N, C, H, W) or (N, C, T, H, W), all sizes positive; got {tuple(images.shape)}"
        )
    if values:
        broken = ~images.detach().isfinite().flatten(1).all(1)
        if bool(broken.any()):
            raise InvalidValueError(
                f"images must be finite; got NaN or Inf in images {broken.nonzero()[:, 0].tolist()}"
            )
    return images.as_subclass(Tensor)


def check_differentiable(name: str, value: Any, shape: str = "") -> None:
    """Raise for anything that cannot be explained by heatmaps; `name` and `shape` are for the message.

    Raises
    ------
    InvalidTypeError
        If `value` is not a floating tensor, or float16 outside autocast.
    InvalidValueError
        In `torch.inference_mode`, or for a tensor made in it.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidValueError(
            "heatmaps need gradients, which torch.inference_mode forbids; use torch.no_grad instead"
        )
    if not isinstance(value, Tensor):
        raise InvalidTypeError(f"{name} must be a Tensor{shape}; got {type(value).__name__}")
    if value.is_inference():
        raise InvalidValueError(f"{name} must not be inference tensors; got one made in torch.inference_mode; clone it")
    check_dense(name, value)
    if not value.is_floating_point():
        raise InvalidTypeError(f"{name} must be floating point (convert and scale them first); got {value.dtype}")
    if value.dtype == torch.float16 and not torch.is_autocast_enabled(value.device.type):
        within = f"torch.autocast({value.device.type!r}, torch.float16)"
        remedy = f"keep model and {name} in float32 and call within {within}, or use bfloat16"
        raise InvalidTypeError(f"signals exceed the range of float16; {remedy}; got {name} of torch.float16")


def check_dense(name: str, value: Tensor) -> None:
    """Raise `InvalidTypeError` for meta, sparse, nested, quantized or eight-bit floating tensors."""
    kinds = {"nested": value.is_nested, "meta": value.is_meta, str(value.layout): value.layout != torch.strided}
    kinds[str(value.dtype)] = value.is_quantized or (value.is_floating_point() and value.element_size() < 2)
    came = [kind for kind, is_so in kinds.items() if is_so]
    if came:
        remedy = "convert it by to_dense(), to_padded_tensor(0), dequantize() or float()"
        raise InvalidTypeError(f"{name} must be an ordinary tensor; got a {came[0]} tensor; {remedy}")


def check_masks(masks: Any, images: Tensor) -> Tensor:
    """Return foreground masks as a plain tensor ``(N, 1, H, W)``, or ``(N, 1, T, H, W)`` for videos.

    For a video, a mask ``(N, 1, H, W)`` or ``(N, H, W)`` applies to all frames. Masks may have another resolution than
    the images, but must not look rotated by 90° or have another number of frames.

    Raises
    ------
    InvalidTypeError
        If `masks` is not a tensor.
    InvalidValueError
        If their number, dimensions, orientation, frames or device do not match the images.
    """
    if not isinstance(masks, Tensor):
        raise InvalidTypeError(f"masks must be a Tensor (N, 1, H, W) or (N, H, W); got {type(masks).__name__}")
    check_dense("masks", masks)
    result = masks.as_subclass(Tensor)
    while 3 <= result.ndim < images.ndim:
        result = result.unsqueeze(1)
    if result.ndim == 5 and result.shape[2] == 1:
        result = result.expand(-1, -1, images.shape[2], -1, -1)
    shape, came = tuple(images.shape), tuple(masks.shape)
    if result.ndim != images.ndim or result.shape[1] != 1 or result.shape[0] != images.shape[0]:
        legal = f"(N, 1, H, W) or (N, H, W) with N = {shape[0]} (and T for videos)"
        raise InvalidValueError(f"masks must have shape {legal} for images of shape {shape}; got {came}")
    if looks_turned(result.shape, images.shape):
        problem = f"masks must have the orientation of images of shape {shape}"
        raise InvalidValueError(f"{problem}; got {came}, which looks transposed: swap its last two dimensions")
    if images.ndim == 5 and result.shape[2] != images.shape[2]:
        legal = f"one frame or T = {shape[2]} of them for videos of shape {shape}"
        raise InvalidValueError(f"masks of videos must have {legal}; got {result.shape[2]} in {came}")
    if result.device != images.device:
        raise InvalidValueError(f"masks must be on the images' device {images.device}; got {result.device}")
    return result


def looks_turned(mask: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a mask has the proportions of its image only if rotated by 90°; both shapes end with height and width."""
    height, width = mask[-2:]

    def fits(of_height: int, of_width: int) -> bool:
        # a scaled size is exact to less than one pixel
        return (height - 1) * of_width < (width + 1) * of_height and (width - 1) * of_height < (height + 1) * of_width

    return fits(image[-1], image[-2]) and not fits(image[-2], image[-1])


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
            raise InvalidValueError(
                f"box must have bounds for the images' {images.shape[1]} channels; got {bound.shape[0]}"
            )
    # allow for rounding in the normalisation
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
        If it does not have one entry for each image.
    """
    if has_mask is None:
        return torch.ones(count, dtype=torch.bool, device=device)
    try:
        flags = torch.as_tensor(has_mask, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"has_mask must be boolean, one value per image; got {has_mask!r}") from error
    check_dense("has_mask", flags)
    if flags.dtype != torch.bool:
        raise InvalidTypeError(f"has_mask must be boolean, one value per image; got {flags.dtype}")
    if flags.shape != (count,):
        raise InvalidValueError(f"has_mask must have shape ({count},); got {tuple(flags.shape)}")
    return flags


def as_floats(name: str, value: Any) -> Tensor:
    """Return a floating tensor in float32; float64 is kept.

    Raises
    ------
    InvalidTypeError
        If `value` is not a floating tensor.
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
    """Return a tensor of integers or booleans in int64, so that comparisons with `count` cannot overflow.

    Parameters
    ----------
    name : str
        Name of the argument, for the messages.
    value : object
        What the caller passed.
    shape, device : optional
        Expected shape and device; not checked if None.
    count : int, optional
        The values must be less than this; if None, they must only not be negative. Values are read, which synchronises
        an accelerator.
    booleans : bool, default=True
        Whether booleans count as 0 and 1, as labels of two classes may.

    Raises
    ------
    InvalidTypeError
        If `value` is not a tensor of integers.
    InvalidValueError
        If its shape or device does not match, or a value is out of range.
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
        Whether to read the values too, which must be finite.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If its type, dtype, shape or values are not allowed.
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
        If it has other keys, such as the state of an object with other arguments.
    """
    name, expected = type(owner).__name__, sorted(owner.state_dict())
    came = sorted(state) if isinstance(state, Mapping) else kind_of(state)
    if came != expected:
        raise InvalidValueError(
            f"state must come from a {name} with the same arguments, with the keys {expected}; got {came}"
        )


def kind_of(value: object) -> str:
    """Return the dtype of a tensor or the type of anything else, for a message."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


class Described:
    """Gives an object a repr that shows its constructor call, without arguments at their defaults."""

    def __repr__(self) -> str:
        options = inspect.signature(type(self)).parameters.values()
        given = {option: _shown(getattr(self, option.name, None)) for option in options}
        told = [f"{o.name}={text}" for o, text in given.items() if text not in ("None", "{}", "[]", repr(o.default))]
        return f"{type(self).__name__}({', '.join(told)})"


class Drawing(Described):
    """Draws random numbers, from its own generator if it has one.

    Parameters
    ----------
    generator : torch.Generator, optional
        On the CPU, so that the draws do not depend on a model's device. If None, the global generator.

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
        """Restore the state of the generator, so that the draws continue where they left off.

        Parameters
        ----------
        state : mapping of str to Tensor
            From the `state_dict` of an object with a generator if and only if this one has one.

        Raises
        ------
        InvalidValueError
            If the keys of `state` differ from this object's own.
        """
        check_state(self, state)
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with the generator's state as bytes: PyTorch cannot pickle generators."""
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
