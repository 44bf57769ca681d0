"""One rank: device, KV memory, offload engine; StepPlan -> batch -> forward pass -> sampled tokens.

What a simulator needs, `info`, `memory` and `step_output`, goes without torch; hence nothing is imported here.
"""
