"""The relevance pass: any Zennit composite, made differentiable with respect to the parameters.

``evaluation`` evaluates Zennit's rules with parameters that stay attached to the graph; ``fusion`` folds BatchNorm into
the layer before or after it; ``live_rule`` puts one rule on one module; ``functions`` gives functional calls the rules
of the modules they stand for; ``composite`` has `differentiable`, and ``papers`` the composites of the ISNet papers.
"""
