"""The relevance pass: any Zennit composite, made differentiable with respect to the parameters.

``evaluation`` evaluates a Zennit rule with parameters that stay attached to the graph; ``application`` applies any of
Zennit's hooks to one call; ``hook`` puts one rule on one module; ``folding`` has the weights of a layer and a BatchNorm
in one, ``fusion`` finds the pairs; ``functions`` gives functional calls the rules of the modules they stand for;
``composite`` has `differentiable`.
"""
