"""The fleet: the Batch jobs of a run, and what watches them (docs/fleet.md).

batch.py speaks to Batch · submit.py submits once · plan.py decides · sight.py looks · watch.py acts · recover.py takes
back · explain.py says why nothing runs · progress.py is what a watch tells.
"""
