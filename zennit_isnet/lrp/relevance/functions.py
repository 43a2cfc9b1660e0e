"""Relevance through functional calls: operations that pass it on, that share it, and that correspond to modules.

Relevance is not a gradient: a sum divides it among its terms in proportion to their values, and a constant factor does
not scale it. `NAMES` lists what each operation does; all others use the ordinary gradient or are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from zennit.core import Hook, RemovableHandleList
from zennit.layer import Sum

from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.lrp.composite import PassHook
from zennit_isnet.lrp.relevance.evaluation import Call, apply_rule
from zennit_isnet.lrp.relevance.live_rule import attached
from zennit_isnet.lrp.signal.mode import VALUE_FREE, Kind, Provenance, module_path, name_of, tensors_in, version_of
from zennit_isnet.lrp.signal.substitute import Handler, ordinary_only, substitute
from zennit_isnet.lrp.signal.table import functions_of
from zennit_isnet.model import main_head

MODULES: Mapping[Any, Callable[..., nn.Module]] = MappingProxyType(
    {
        **{F.relu: nn.ReLU, torch.relu: nn.ReLU, Tensor.relu: nn.ReLU, F.relu6: nn.ReLU6, F.silu: nn.SiLU},
        **{F.hardswish: nn.Hardswish, F.gelu: nn.GELU, torch.tanh: nn.Tanh, torch.sigmoid: nn.Sigmoid},
        **{getattr(F, f"avg_pool{d}d"): getattr(nn, f"AvgPool{d}d") for d in (1, 2, 3)},
        **{getattr(F, f"adaptive_avg_pool{d}d"): getattr(nn, f"AdaptiveAvgPool{d}d") for d in (1, 2, 3)},
    }
)
"""The module that corresponds to a functional call, made from the call's arguments after the input."""

UNSEEN = ("BackwardHookFunctionBackward", "InputRelevanceBackward")
"""Identities hidden from modes: PyTorch's own for backward hooks of modules, and the entry of `LRPFlex`."""


class VisibleFunctions(PassHook):
    """Hook of the root module: functional calls outside modules with a rule get the rule of their module type.

    Parameters
    ----------
    rule_of : callable
        ``rule_of(module) -> Hook or None``, the composite's map.
    strict : bool
        Whether operations without a rule on the path from the images are errors.
    signed : bool
        Whether relevance may pass a minus sign. Positive parts may not.
    """

    def __init__(self, rule_of: Callable[[nn.Module], Hook | None], strict: bool = False, signed: bool = True) -> None:
        super().__init__()
        self.rule_of, self.strict, self.signed = rule_of, strict, signed
        self.inside = 0

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Observe the functional calls in the module's forward passes."""
        handles = super().register(module)
        for child in module.modules():
            if child is not module and self.rule_of(child) is not None:
                handles.append(child.register_forward_pre_hook(self._into, prepend=True))
                handles.append(child.register_forward_hook(self._out_of, always_call=True))
        return handles

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self.inside = 0
            mode = FunctionMode(self, module)
            for tensor in tensors_in((*args, *kwargs.values())):
                mode.kinds[tensor] = Kind.SIGNAL if tensor.requires_grad else Kind.CONSTANT
            self.start(mode)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        mode = self.end()
        if mode is not None and output is not None:
            mode.read((main_head(output),), "the model's output")
            if mode.problems:
                raise UncoveredOperationError(mode.problems)

    def _into(self, module: nn.Module, args: Any) -> None:
        if self.mode is not None and not self.inside:
            with torch._C.DisableTorchFunction():
                self.mode.read(args, f"module {type(module).__name__}")
        self.inside += 1

    def _out_of(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside -= 1


class FunctionMode(TorchFunctionMode):
    """Runs one forward pass, and records which tensors with a gradient carry relevance to the images.

    Parameters
    ----------
    hook : VisibleFunctions
        Switch, rules and options.
    root : Module
        The model, for messages.
    """

    def __init__(self, hook: VisibleFunctions, root: nn.Module) -> None:
        super().__init__()
        self.hook, self.root = hook, root
        self.problems: list[str] = []
        self.kinds = Provenance()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.register_hook:
            return func(args[0], ordinary_only(self.hook, *args[1:], **kwargs))
        handler = None if kwargs.get("out") is not None else HANDLERS.get(func)
        if handler is None and getattr(func, "__name__", None) == "__get__":
            # attribute access, which is frequent
            result = func(*args, **kwargs)
            if isinstance(result, Tensor):
                with torch._C.DisableTorchFunction():
                    if result.grad_fn is None and self.kinds[args[0]] is not Kind.CONSTANT:
                        self.kinds.hold_ungraded(result)
            return result
        operands = list(tensors_in((*args, *kwargs.values())))
        graded = torch.is_grad_enabled()
        with torch._C.DisableTorchFunction():  # a mode below would see attribute access
            if graded:
                self.read(operands, func)
            kind = max((self.kinds[t] for t in operands), default=Kind.CONSTANT)
            versions = [version_of(t) for t in operands]
        if self.hook.inside or not graded or kind is not Kind.SIGNAL:
            result = func(*args, **kwargs)
        else:
            result = (handler or uncovered)(self, func, *args, **kwargs)
        with torch._C.DisableTorchFunction():
            value_free = getattr(func, "__name__", None) in VALUE_FREE and len(operands) == 1
            self.note(result, operands, versions, Kind.CONSTANT if value_free else kind)
        return result

    def read(self, values: Iterable[Any], func: Any) -> None:
        """Report tensors of unknown origin among values, and treat them as carrying relevance."""
        for tensor in tensors_in(values):
            if self.kinds[tensor] > Kind.SIGNAL:
                maker = tensor.grad_fn.name()  # type: ignore[union-attr]  # without one, nothing is unknown
                if maker not in UNSEEN and not self.hook.inside:
                    self.report(func, f"reads a tensor of unknown origin ({maker})")
                self.kinds[tensor] = Kind.SIGNAL

    def note(self, result: Any, operands: list[Tensor], versions: list[int], kind: Kind) -> None:
        """Record the kinds of an operation's results, and of what it wrote to."""
        written = [t for t, version in zip(operands, versions, strict=True) if version_of(t) != version]
        shared = {id(t): t for tensor in written for t in self.kinds.sharing(tensor)}
        for tensor in (*tensors_in((result,)), *shared.values()):
            if tensor.requires_grad:
                before = self.kinds.before_write(tensor) if id(tensor) in shared else Kind.CONSTANT
                self.kinds[tensor] = kind if before > Kind.SIGNAL else max(kind, before)
            elif kind is not Kind.CONSTANT:
                self.kinds.hold_ungraded(tensor)

    def carries(self, value: Any) -> bool:
        """Whether a value carries relevance to the images; parameters and values computed from them do not."""
        return isinstance(value, Tensor) and self.kinds[value] is Kind.SIGNAL

    def report(self, func: Any, reason: str = "no relevance rule covers it") -> None:
        """Record a problem, if the composite is strict."""
        remedy = "use LRPFlex, or differentiable(composite) with a rule for the module"
        problem = f"{module_path(self.root)}: {name_of(func)}: {reason}; {remedy}"
        if self.hook.strict and problem not in self.problems:
            self.problems.append(problem)

    def report_held(self, func: Any, values: Iterable[Any]) -> None:
        """Record a problem if tensors among values depend on the images but carry no relevance."""
        if any(self.kinds[t] is Kind.HELD for t in tensors_in(values)):
            self.report(func, "combines relevance with values that depend on the images and have no gradient")

    def report_minus(self, func: Any) -> None:
        """Record a minus sign, if relevance only follows positive parts."""
        if not self.hook.signed:
            self.report(func, "has a minus sign, which makes the positive parts that this composite follows negative")


def uncovered(mode: FunctionMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """No rule: reported if the result has a gradient."""
    result = func(*args, **kwargs)
    if any(t.requires_grad for t in tensors_in((result, kwargs.get("out")))):
        mode.report(func)
    return result


def unchanged(mode: FunctionMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Values are moved, selected or copied: relevance returns to their source."""
    mode.report_held(func, [t for t in tensors_in((*args, *kwargs.values())) if t.is_floating_point()])  # indices may
    return func(*args, **kwargs)


def stands_for_module(mode: FunctionMode, func: Any, /, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The rule of the module type that corresponds to the function."""
    module: Any = MODULES[func](*args, **kwargs)
    rule = mode.hook.rule_of(module)
    if rule is None:
        return func(input, *args, **kwargs)
    inplace: bool = getattr(module, "inplace", False)
    module.inplace = False
    original = input.clone() if inplace else input
    call = Call(module, {}, (original,))
    result = attached(mode.hook, name_of(func), rule.copy(), call, module.forward(original))
    return input.copy_(result) if inplace else result


def _shared(like: Any, mode: FunctionMode, func: Any, /, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output: Tensor = func(input, *args, **kwargs)
    rule = mode.hook.rule_of(like)
    if rule is None:
        return output
    like.forward = lambda x: func(x, *args, **kwargs)
    return attached(mode.hook, name_of(func), rule.copy(), Call(like, {}, (input,)), output)


def summed(mode: FunctionMode, func: Any, /, *args: Any, **kwargs: Any) -> Tensor:
    """A sum over positions: each gets its share by the rule of ``zennit.layer.Sum``."""
    return _shared(Sum(), mode, func, *args, **kwargs)


def averaged(mode: FunctionMode, func: Any, /, *args: Any, **kwargs: Any) -> Tensor:
    """A mean over positions: each gets its share by the rule of average pooling."""
    return _shared(nn.AdaptiveAvgPool2d(1), mode, func, *args, **kwargs)


def interpolated(mode: FunctionMode, func: Any, /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Interpolation: ``nearest`` copies, ``linear`` and ``area`` average; ``bicubic`` has no rule."""
    how = args[2] if len(args) > 2 else kwargs.get("mode", "nearest")
    handler = unchanged if "nearest" in how else averaged if "linear" in how or how == "area" else uncovered
    return handler(mode, func, input, *args, **kwargs)


def added(mode: FunctionMode, func: Any, /, input: Any, other: Any, **options: Any) -> Any:
    """A sum or difference of two: each gets its share by the rule of ``zennit.layer.Sum``; a constant is a bias."""
    mode.report_held(func, (input, other))
    rule = mode.hook.rule_of(Sum())
    if rule is None:
        return func(input, other, **options)
    name, alpha = func.__name__.strip("_"), options.get("alpha", 1)
    factors = (-alpha, 1) if name == "rsub" else (1, alpha if "add" in name else -alpha)
    terms, output = _out_of_place(func, (input, other), options)
    carrying = [mode.carries(term) for term in (input, other)]
    if any(carries and factor < 0 for carries, factor in zip(carrying, factors, strict=True)):
        mode.report_minus(func)
    numbers = [None if isinstance(term, Tensor) else term for term in terms]
    if 0 in numbers:
        # the other term is the whole sum
        return _written(func, input, substitute(mode.hook, None, output, terms[1 - numbers.index(0)]))

    def propagate(relevance: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        values = [tensor.to(relevance) for tensor in tensors]
        parts = [value if factor == 1 else factor * value for value, factor in zip(values, factors, strict=True)]
        stacked = torch.stack(torch.broadcast_tensors(*parts), dim=-1)
        (share,) = apply_rule(rule.copy(), Call(Sum(), {}, (stacked,)), relevance)
        assert share is not None
        found = zip(share.unbind(-1), values, carrying, strict=True)
        return tuple(part.sum_to_size(value.shape) if carries else None for part, value, carries in found)

    operands = [torch.as_tensor(term, dtype=None if isinstance(term, Tensor) else output.dtype) for term in terms]
    return _written(func, input, substitute(mode.hook, propagate, output, *operands))


def scaled(mode: FunctionMode, func: Any, /, input: Any, other: Any = None, **options: Any) -> Any:
    """A product or quotient with a constant, or a minus: relevance is unchanged, except that factors of 0 stop it."""
    name = func.__name__.strip("_")
    operands = (input,) if "neg" in name else (input, other)
    carrier = 0 if mode.carries(input) else 1
    factor = -1 if "neg" in name else operands[1 - carrier]
    if mode.carries(factor):
        mode.report(func, "multiplies or divides two tensors that both carry relevance")
    elif "div" in name and (carrier == 0) == name.startswith("r"):
        mode.report(func, "divides by a tensor that carries relevance")
    elif options.get("rounding_mode") is not None:
        mode.report(func)
    elif mode.hook.rule_of(Sum()) is not None and not (isinstance(factor, (int, float)) and factor == 0):
        return _scaled(mode, func, operands, options, carrier)
    return func(*operands, **options)


def _scaled(mode: FunctionMode, func: Any, operands: Any, options: Any, carrier: int) -> Any:
    kept, output = _out_of_place(func, operands, options)
    factor = -1 if len(kept) == 1 else kept[1 - carrier]
    if isinstance(factor, Tensor):
        signed = mode.hook.signed

        def propagate(relevance: Tensor, carrier: Tensor, factor: Tensor) -> tuple[Tensor, None]:
            return (relevance * (factor != 0 if signed else factor > 0)).sum_to_size(carrier.shape), None

        passed = substitute(mode.hook, propagate, output, kept[carrier], factor)
    else:
        if factor < 0:
            mode.report_minus(func)
        passed = substitute(mode.hook, None, output, kept[carrier])
    return _written(func, operands[0], passed)


def dropped(
    mode: FunctionMode, func: Any, /, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout: relevance is unchanged where the value was kept."""
    if mode.hook.rule_of(Sum()) is None or not training:
        return func(input, p, training, inplace)
    output = func(input, p, training)
    result = substitute(mode.hook, lambda relevance, _: (relevance * (1 - p),), output, output)
    return input.copy_(result) if inplace else result


def _writes(func: Any) -> bool:
    """Whether a function works in place: ``add_``, ``__iadd__``."""
    name = func.__name__
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def _out_of_place(func: Any, operands: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], Tensor]:
    """Return the unchanged operands and the result; the target of an in-place function is read again."""
    if not _writes(func):
        return operands, func(*operands, **options)
    kept = operands[0].clone(), *operands[1:]
    plain = next(getattr(torch, name) for name in ("add", "sub", "mul", "div", "neg") if name in func.__name__)
    return kept, plain(*kept, **options)


def _written(func: Any, input: Tensor, result: Tensor) -> Tensor:
    """Return a result, in the input's memory if the function works in place."""
    return input.copy_(result) if _writes(func) else result


NAMES: tuple[tuple[Handler, str], ...] = (
    # parts of tensors, and their order
    (unchanged, "cat concat concatenate stack hstack vstack dstack chunk split tensor_split split_with_sizes unbind"),
    (unchanged, "__getitem__ __setitem__ narrow select index_select gather take_along_dim diagonal unfold pad copy_"),
    (unchanged, "where masked_fill masked_fill_ tril triu flip fliplr flipud rot90 roll"),
    (unchanged, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    # winners take all
    (unchanged, "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    (unchanged, "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"),
    (unchanged, "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices"),
    (unchanged, "adaptive_max_pool3d_with_indices max amax maximum min amin minimum topk sort"),
    # shapes, copies, types
    (unchanged, "flatten unflatten reshape reshape_as view view_as ravel squeeze squeeze_ unsqueeze unsqueeze_"),
    (unchanged, "permute transpose transpose_ swapaxes swapaxes_ swapdims swapdims_ movedim moveaxis t t_ adjoint"),
    (unchanged, "expand expand_as repeat repeat_interleave tile broadcast_to clone contiguous positive __pos__"),
    (unchanged, "to type type_as float double half bfloat16 cpu cuda requires_grad_"),
    # sharing
    (added, "add add_ __add__ __iadd__ __radd__ sub sub_ subtract subtract_ rsub __sub__ __isub__ __rsub__"),
    (summed, "sum cumsum fold"),
    (averaged, "mean"),
    (interpolated, "interpolate upsample"),
    # scaling
    (scaled, "mul mul_ multiply multiply_ __mul__ __imul__ __rmul__ neg neg_ negative negative_ __neg__"),
    (scaled, "div div_ divide divide_ true_divide true_divide_ __div__ __idiv__ __itruediv__ __rdiv__ __rtruediv__"),
    (dropped, "F.dropout F.dropout1d F.dropout2d F.dropout3d"),
)
"""Handlers, and the names of their functions as in `zennit_isnet.lrp.signal.table`."""

HANDLERS: Mapping[Any, Handler] = MappingProxyType(
    {func: handler for handler, names in NAMES for name in names.split() for func in functions_of(name)}
    | {getattr(Tensor, name).__get__: unchanged for name in ("T", "mT", "H", "mH")}
    | dict.fromkeys(MODULES, stands_for_module)
    | {substitute: unchanged}
)
"""What happens to relevance at each operation of PyTorch."""
