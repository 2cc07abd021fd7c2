"""What an operator can watch: metrics, logs and traces. docs/observability.md explains them.

The functions take plain values and never raise into the code that they watch.
"""
