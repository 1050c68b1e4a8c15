"""Which plan the next round takes, and how many rows fit.

The modules:

    planner        the choice of a plan for the next round
    costs          how long a round takes on this machine, by plan, rows and length of text
    calibration    the files in the bundle that keep measured costs
    footprint      how much memory decoding needs, and how much is free
"""
