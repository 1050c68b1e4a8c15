"""Which plan the next round takes, and how many rows are decoded together.

The modules:

    choice         what the next round drafts: what is looked up for its rows, and its plan
    planner        the choice of a plan for the next round
    costs          how long a round takes on this machine, by plan, rows and length of text
    measuring      rounds that are run for their costs alone
    calibration    the files in the bundle that keep measured costs
    footprint      how much memory decoding needs
    batch          the choice of the number of rows
    compiled       how many rows compiled engines take, and how long texts
    fitting        what that choice is made from: rows that fit, and rounds that are measured
    shrinking      the pair of a decoder, whose rows are halved where memory runs out
    company        whether freed rows wait for others, to be read in one call
"""
