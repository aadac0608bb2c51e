"""Demo (`muster demo`): federated averaging on scikit-learn's digits, on this machine.

It starts a coordinator and client processes, and kills a client and the coordinator during the
training. Only `muster.cli.demo` imports this package.
"""
