"""The signal pass: gradients of the frozen-gate network, differentiable with respect to the parameters.

A *handler* runs an operation of the forward pass and attaches its *signal function*, which takes the signal from the
operation's output to its operands. ``activation``, ``convolution``, ``normalization``, ``attention`` and ``linear``
have a family of operations each, handler and autograd function together, and ``table`` says which function has which
handler. ``mode`` sees the operations of a forward pass and keeps what each tensor is, ``modules`` hides modules with a
declared rule from it, ``zbox`` adds the z^B rule at the first layer, and ``hook`` ties one registration together in
Zennit's protocol. ``substitute`` has what all are made of: the switch that tells a signal pass from an ordinary one.
"""
