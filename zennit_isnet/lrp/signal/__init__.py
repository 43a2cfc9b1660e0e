"""The signal pass: gradients of the frozen-gate network that are differentiable with respect to the parameters.

A *handler* runs an operation of the forward pass and attaches its *signal function*, which maps the signal at the
operation's output to its operands. ``activation``, ``convolution``, ``normalization``, ``attention`` and ``linear``
each contain the handlers and autograd functions for a family of operations, and ``table`` maps functions to handlers.
``mode`` observes the operations of a forward pass and records the kind of each tensor, ``modules`` hides leaf modules
from it, ``zbox`` adds the z^B rule at the first layer, and ``hook`` ties one registration together in Zennit's
protocol. ``substitute`` has the common building blocks, such as the switch between signal passes and ordinary passes.
"""
