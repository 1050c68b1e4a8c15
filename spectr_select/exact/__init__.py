"""Exact results about the rules: their output laws and how often they accept.

    quadrature    integrals over the arrival times of exponential races
    acceptance    the probability that a rule accepts a draft, as a sum or an integral
    branches      Branches: a Chance under which a rule meets every outcome of every decision
    enumeration   the law of the text that a rule emits, summed over all these outcomes

Nothing here is sampled, so a bias shows however small it is. Decoding uses none of these modules.
"""
