"""What the scripts about the papers' claims are made of.

simulated          rounds of the small pair over any tree, rule, temperature and quality of the draft
raced              races over texts: rank laws, and trees that know the context
candidates         rules of other papers that are not in the package, to be judged beside it
budget_costs       what a round costs on a CPU and on a GPU that its memory limits
headline_model     the speed of a plan from the costs of calls and from acceptance
headline_cells     a plan's decodings, with the time of their parts
headline_quality   drafts made as weak as the paper's
readers_drafts     drafts of several sizes, trained alike
readers_odd        drafts that are wrong
growth_curves      times over a size that grows, their powers and lines
"""
