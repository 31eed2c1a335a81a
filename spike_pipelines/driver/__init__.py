"""The driver's side of the protocol, without an engine: epochs, ranges, staging, registration, fencing.

An engine (Spark today) gets a grant, reads from its offsets, stages each batch and registers it.
"""
