"""The relevance pass: any Zennit composite, made differentiable with respect to the parameters.

``evaluation`` evaluates a Zennit rule with parameters that stay attached to the graph; ``hook`` puts one rule on one
module; ``fusion`` folds BatchNorm into the layer before it with the statistics of the forward pass; ``functions`` gives
functional calls the rules of the modules they stand for; ``composite`` has `differentiable`.
"""
