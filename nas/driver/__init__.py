"""A search: the plan, the loop (ask, run, tell), early stopping, and what is made of a study.

The loop knows neither torch nor ray. Entered by the command line.
"""
