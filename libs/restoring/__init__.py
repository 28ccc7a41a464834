"""Whole restores, which run where the bytes land: the plan, what it makes to fetch, the target."""
