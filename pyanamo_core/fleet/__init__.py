"""The fleet: the Batch jobs of a run, and what watches them (docs/fleet.md).

batch.py speaks to Batch · submit.py submits once · plan.py decides · sight.py looks · watch.py acts · recover.py takes
back · observe.py and explain.py say why nothing runs, reasons.py what Batch's words mean · account.py and account_item.py tell the whole
story of a run, an item or a nest · item_jobs.py maps items to jobs · progress.py is what a watch tells.
"""
