"""Dollars: what AWS charges (prices.py), and what a run will cost (estimate.py)."""
