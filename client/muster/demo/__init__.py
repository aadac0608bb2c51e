"""The demo: FedAvg on scikit-learn's digits, over client processes of this machine, with a kill of a client and of the coordinator.

`muster demo` runs it (`muster.cli.demo`). Nothing here is imported by the rest of Muster.
"""
