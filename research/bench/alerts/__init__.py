"""Alerts of simulated seasons against their truth, at scale, beside monitors of `nrt` and a random forest on the same series.

    simulate -> series with the day on which each row became known -> posteriors -> rules and lifecycle, day by day -> scores

Nothing is stored and nothing is streamed: the rules, the lifecycle and the neighbours are the product's own functions.
"""
