"""`LRPFlex`, and the hook that makes each forward pass a frozen-gate pass, including checkpoint recomputation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import _get_current_function_mode_stack
from zennit.composites import register_composite
from zennit.core import RemovableHandle, RemovableHandleList

from zennit_isnet.checks import check_choice, check_epsilon, fitted_bound
from zennit_isnet.errors import InvalidValueError, UncoveredOperationError
from zennit_isnet.lrp.composite import Bound, LRPComposite, PassHook, as_bound, as_box
from zennit_isnet.lrp.signal.activation import Epsilon
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Inspection, Kind, Provenance, exchanged, tensors_in
from zennit_isnet.lrp.signal.modules import Declared, ModuleRule, function_handlers, module_rules, register_declared
from zennit_isnet.lrp.signal.normalization import register_synchronized
from zennit_isnet.lrp.signal.substitute import Handler, InputRelevance
from zennit_isnet.lrp.signal.table import HANDLERS
from zennit_isnet.lrp.signal.zbox import ZBoxMode
from zennit_isnet.model import buffers_restored, main_head, uncompiled


class FrozenGates(PassHook):
    """Zennit hook for the root module: every forward pass runs in a `FrozenGateMode`.

    The hook is the switch of its passes: a backward pass is a signal pass while the hook is registered and active. It
    puts a forward pre-hook and a forward hook on the root module and on leaf modules, whose inside is not followed. It
    changes nothing else in the model.

    Parameters
    ----------
    composite : LRPFlex
        Has the options.
    """

    def __init__(self, composite: LRPFlex) -> None:
        self.composite = composite
        self.handlers, self.detach_statistics = composite.handlers, composite.detach_statistics
        absolute, ratio = composite.epsilon, composite.epsilon_ratio
        self.epsilon = Epsilon(ratio, relative=True) if absolute is None else Epsilon(absolute)
        self.input_gradient = True
        super().__init__()

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the root module and the leaf modules."""
        return RemovableHandleList([*self.hide_modules(module, lambda: self.mode), *super().register(module)])

    def hide_modules(self, module: nn.Module, current: Callable[[], FrozenGateMode | None]) -> list[RemovableHandle]:
        """Hook the leaf modules; `current` returns the mode of the current pass."""
        declared = self.composite.modules
        handles = register_declared(module, declared, current) if declared else []
        return [*handles, *register_synchronized(module, current)]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass the images through `InputRelevance`, if gradients are enabled."""
        if not torch.is_grad_enabled():
            return None
        images = [t for t in tensors_in((*args, *kwargs.values())) if t.requires_grad]
        if not images:
            return None
        composite = self.composite
        widest = max(images, key=Tensor.dim)
        self.epsilon = self.epsilon._replace(images=len(widest) if widest.ndim else None)
        # only a gradient at the images asks how the darkest value changes with them
        sources = images if self.input_gradient else [t.detach() for t in images]
        references = [_fitted_reference(composite.reference, source) for source in sources]
        entries = {id(t): InputRelevance.apply(self, t, r) for t, r in zip(images, references, strict=True)}
        if composite.box is None:
            mode = FrozenGateMode(module, self)
        elif len(entries) == 1:
            mode = ZBoxMode(module, self, images[0], composite.box)
        else:
            raise InvalidValueError(f"z^B needs one image batch as input; got {len(entries)} tensors")
        mode.seen = None if composite.inspect is None else []
        for entry in entries.values():
            mode.enter(entry)
        # what was computed from the images before the call is not constant
        mode.sources |= {get_gradient_edge(t).node for t in images}
        given = exchanged(args, entries), dict(zip(kwargs, exchanged([*kwargs.values()], entries), strict=True))
        self.start(mode)
        return given

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """End the pass, and raise or report its problems."""
        mode = self.end()
        if mode is None or output is None:
            return
        main = next(tensors_in((main_head(output),)), None)
        problems = [] if main is None else mode.conclude(main)
        if self.composite.inspect is not None:
            self.composite.inspect(Inspection(mode.seen or [], mode.found, problems))
        elif problems:
            raise UncoveredOperationError([str(problem) for problem in problems])


def _fitted_reference(reference: Tensor | Literal["darkest"] | None, images: Tensor) -> Tensor | None:
    """Return the reference in the shape and dtype of a batch."""
    if not isinstance(reference, str):
        return None if reference is None else fitted_bound(reference, images)
    if images.ndim < 3:
        raise InvalidValueError(f'reference="darkest" needs images (N, C, …); got shape {tuple(images.shape)}')
    return images.amin(tuple(range(2, images.ndim)), keepdim=True)


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Recompute a checkpointed part of a model with the same relevance rules as in its first forward pass.

    For the ``context_fn`` of `torch.utils.checkpoint.checkpoint`, which needs ``use_reentrant=False``. A checkpointed
    part only keeps its inputs and is recomputed in the signal pass and in ``loss.backward()``: less memory for two more
    forward passes of that part. Relevance and gradients are the same, and BatchNorm counts the batch once. Without a
    composite on the model, only the BatchNorm behaviour differs.

    With z^B (``box=…``) the first convolution, its BatchNorm and its activation must stay outside the checkpoint.

    Returns
    -------
    first, again : context managers
        For the forward pass, and for each recomputation.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.checkpoint import checkpoint
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.lrp import checkpoint_contexts
    >>> class Checkpointed(torch.nn.Sequential):
    ...     def forward(self, x):
    ...         return checkpoint(super().forward, x, use_reentrant=False, context_fn=checkpoint_contexts)
    >>> block = Checkpointed(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
    >>> regularizer = ISNetRegularizer(model)
    >>> calibration = regularizer.calibrate([torch.rand(4, 3, 8, 8)], progress=False)
    >>> logits, penalty = regularizer(torch.rand(4, 3, 8, 8), torch.ones(4, 1, 8, 8))
    >>> penalty.backward()
    """
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, FrozenGateMode)]
    return nullcontext(), _Again([(mode.root, mode.settings) for mode in modes])


class _Inherited(Provenance):
    """Kinds for recomputing part of a pass, from tensors whose kinds were known in the first forward pass."""

    def __getitem__(self, tensor: Tensor) -> Kind:
        kind = super().__getitem__(tensor)
        return Kind.SIGNAL if kind is Kind.UNKNOWN else kind


class _Again(AbstractContextManager[None]):
    """Context that can be entered repeatedly; it does not keep tensors of the first pass."""

    def __init__(self, passes: list[tuple[nn.Module, Any]]) -> None:
        self.passes = passes
        self.stack = ExitStack()

    def __enter__(self) -> None:
        self.stack.enter_context(uncompiled())
        for root, settings in self.passes:
            self.stack.enter_context(buffers_restored(root))
            repeated = FrozenGateMode(root, settings)
            repeated.kinds = _Inherited()
            self.stack.enter_context(repeated)
            # kinds of the first pass cover only that pass, and are gone once the composite is removed
            for handle in settings.hide_modules(root, lambda mode=repeated: mode):
                self.stack.callback(handle.remove)

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


@register_composite("lrp_flex")
class LRPFlex(LRPComposite):
    """LRP with frozen gates: gradient × input of the network with its gates held constant in the backward pass.

    Covers modules and functional calls, changes nothing in the model, and gives relevance that is exactly
    differentiable with respect to the parameters.

    Parameters
    ----------
    epsilon : float, optional
        Absolute stabilizer ``ε ≥ 0`` of the gates ``a / (z + ε·sign z)``. The papers use 1e-2, which damps almost
        nothing in networks with BatchNorm, whose activations are of order 1. 0 makes the gates exact, ``a/z``, with
        noisier relevance and smaller gradients. If None, `epsilon_ratio` is used.
    box : tuple of (float, sequence or Tensor), optional
        Lowest and highest value of the model's input images, one number or one per channel. Enables the z^B rule at the
        first layer, with denominators stabilized by `epsilon`, or by the papers' 1e-2. `box_from_normalization` makes
        it. The papers use z^B; it is off by default because a wrong box is a silent error.
    epsilon_ratio : float, default=0.3
        ``ε`` of each layer and image, as a multiple of the root mean square of the layer's activations in that image.
        The images are the first axis of a layer's output; of tokens ``(L, N, E)`` with ``L ≠ N``, PyTorch's default for
        transformers, the second. Rows beyond the number of images, such as crops, each have their own ``ε``.
        The relevance then does not depend on a layer's scale, and activations much weaker than the others carry little
        relevance, in shallow and in deep networks.
    reference : float, sequence, Tensor or "darkest", default=0.0
        Image value with zero relevance, one number or one per channel: the relevance is ``(x − reference) ⊙ G``.
        ``"darkest"`` uses the lowest value of each channel in each image. After normalization by mean and standard
        deviation, 0 is a mid-grey, and black borders carry relevance. Not with `box`.
    detach_statistics : bool, default=False
        Whether ``σ`` of a BatchNorm in train mode is detached from the parameters. By default it stays attached, so
        that parameter gradients agree with finite differences.
    rules : mapping of function to rule, optional
        Rules for further operations, which take precedence over the built-in ones: ``"linear"`` (plain gradient),
        ``"activation"`` (elementwise with ``a(0) = 0``), ``"gate"`` (held constant, may multiply a signal), or a
        function ``rule(mode, func, *args, **kwargs)``.
    modules : mapping of module type to rule, optional
        Rules for module types that become leaf modules: one of the same words, or a function ``rule(module, input,
        output, signal)`` that returns the signal at the input. For a word, only cheap checks are made (a single signal,
        its shape, no in-place writes); you must know that it is true for the values.

    Attributes
    ----------
    propagates : str
        ``"signal"``. Under Zennit's `Gradient`, ``attr_output`` is the signal at the logits, which `seed` makes from a
        formulation, and the result at the images is relevance, ``(x − reference) ⊙ G``.

    Raises
    ------
    InvalidValueError
        If `epsilon` is negative, `epsilon_ratio` is not positive, one of them is outside the range of float32, the box
        is empty, or both `box` and `reference` are given.
    UncoveredOperationError
        In the forward pass inside the context, if the model runs an operation without a rule.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409. LRP-Flex.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit.attribution import Gradient
    >>> from zennit_isnet import LRPFlex
    >>> model = resnet18(num_classes=3).eval()
    >>> with Gradient(model, LRPFlex()) as attributor:
    ...     logits, relevance = attributor(torch.rand(2, 3, 32, 32), torch.eye(3)[[0, 2]])
    >>> relevance.shape
    torch.Size([2, 3, 32, 32])

    A module of your own gets its rule in one line:

    >>> class Cube(torch.nn.Module):
    ...     def forward(self, features):
    ...         return features**3
    >>> composite = LRPFlex(modules={Cube: "activation"})
    """

    propagates: Literal["signal"] = "signal"

    def __init__(
        self,
        epsilon: float | None = None,
        box: tuple[Bound, Bound] | None = None,
        *,
        epsilon_ratio: float = 0.3,
        reference: Bound | Literal["darkest"] = 0.0,
        detach_statistics: bool = False,
        rules: Mapping[Any, Handler | Declared] | None = None,
        modules: Mapping[type[nn.Module], ModuleRule] | None = None,
    ) -> None:
        if epsilon is not None:
            check_epsilon("epsilon", epsilon, include_zero=True)
        check_epsilon("epsilon_ratio", epsilon_ratio)
        self.epsilon = None if epsilon is None else float(epsilon)
        self.epsilon_ratio = float(epsilon_ratio)
        self.box = None if box is None else as_box(box)
        self.reference = as_reference(reference)
        if self.box is not None and self.reference is not None:
            raise InvalidValueError("pass box or reference, not both: z^B has its own zero, at the ends of the box")
        self.detach_statistics = detach_statistics
        self._own_handlers = function_handlers(rules)
        self.modules = module_rules(modules)
        self.inspect: Callable[[Inspection], None] | None = None
        super().__init__(module_map=self._rule_of_module)

    @property
    def handlers(self) -> Mapping[Any, Handler]:
        """The handler of each function; the user's take precedence over the built-in ones."""
        # built on demand: not all keys can be copied, and a composite must be copyable
        return {**HANDLERS, **self._own_handlers} if self._own_handlers else HANDLERS

    def _rule_of_module(self, ctx: dict[str, Any], name: str, module: nn.Module) -> FrozenGates | None:
        # one hook sees all operations below it, so only the root module gets one
        return None if name else FrozenGates(self)

    def entry(self, images: Tensor, *, input_gradient: bool = True) -> Tensor:
        """Return the images; the model gets a copy of them, where the signal becomes relevance."""
        for hook in self.hook_refs:
            # otherwise the input gradient of the first convolution is skipped
            hook.input_gradient = input_gradient
        return images


def box_from_normalization(mean: Bound, std: Bound) -> tuple[Tensor, Tensor]:
    """Return the box of images in [0, 1] after ``(image − mean) / std``.

    Parameters
    ----------
    mean, std : float, sequence or Tensor
        As for `torchvision.transforms.v2.Normalize`: one number or one per channel; `std` positive.

    Returns
    -------
    low, high : Tensor
        Bounds of shape ``(C, 1, 1)``, or scalars.

    Raises
    ------
    InvalidValueError
        If a standard deviation is not positive.

    Examples
    --------
    >>> low, high = box_from_normalization(mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 0.25))
    >>> low.flatten().tolist(), high.flatten().tolist()
    ([-1.0, -2.0, -1.0], [1.0, 2.0, 3.0])
    """
    center, scale = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    if not bool((scale > 0).all()):
        raise InvalidValueError(f"std must be positive; got {scale.tolist()}")
    return as_box((-center / scale, (1 - center) / scale))


def as_reference(reference: Bound | Literal["darkest"]) -> Tensor | Literal["darkest"] | None:
    """Return the reference as a tensor; None for zero, where nothing is subtracted."""
    if isinstance(reference, str):
        check_choice("reference", reference, Literal["darkest"])
        return "darkest"
    values = as_bound(reference, "reference")
    return values if bool(values.any()) else None
