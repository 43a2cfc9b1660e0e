"""The signal pass: gradients of the frozen-gate network, differentiable with respect to the parameters.

``substitute`` has the autograd functions that tell a signal pass from an ordinary one; ``convolution``,
``batchnorm``, ``activation`` and ``zbox`` have the formulas; ``rules`` and ``table`` say which operation follows
which; ``mode`` sees the operations, ``provenance`` keeps what each tensor is, ``stem`` finds the first layer, and
``hook`` ties one registration together in Zennit's protocol.
"""
