"""The relevance pass: Zennit composites made differentiable with respect to the parameters.

``evaluation`` evaluates Zennit's rules with parameters attached to the graph; ``fusion`` folds BatchNorm into the layer
before or after it; ``live_rule`` attaches a rule to a module; ``functions`` gives functional calls the rules of the
corresponding modules; ``composite`` has `differentiable`, and ``papers`` the composites of the ISNet papers.
"""
