"""The race: ntkuq and its peers on the same tasks, weights and data, in one run.

`tasks` says what is timed, `inputs` writes the weights and data that all share,
`ntkuq_tasks` and `peers/` are the contestants, each run in a process of its own,
`reference` is the truth in float64, `run` the command, `table` what it prints.
"""
