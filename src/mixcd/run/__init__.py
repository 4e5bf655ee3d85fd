"""Belief, plan, observation, belief: rehearsal beside a trainer or in a loop of your own, and what came of it."""
