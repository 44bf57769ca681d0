"""How long the loop takes requests in, while an iteration runs, before it plans the next one."""

# The next plan is made after this share of the time that the running iteration should take. Later would let a few more new
# requests in; but an iteration that ends early would leave the worker idle, and the estimate is good to some 20 %.
PLANNING_SHARE = 0.7
WAIT_STEP_S = 0.001  # what a poll for messages counts in
LONGEST_WAIT_S = 0.002  # without looking whether the iteration has ended earlier than predicted
