"""Exact results about the rules: their output laws and how often they accept.

    quadrature         integrals over the arrival times of exponential races
    rejections         the probability that distinct drafts are all rejected, as a sum over the rejected tokens
    groups             groups of tokens of about the same weight
    rejection_bounds   bounds on it where there are too many
    acceptance         the probability that a rule accepts a draft, as a sum, an integral or between bounds
    branches           Branches: a Chance under which a rule meets every outcome of every decision
    enumeration        the law of the text that a rule emits, summed over all these outcomes

Nothing here is sampled, so a bias shows however small it is. Decoding uses none of these modules.
"""
