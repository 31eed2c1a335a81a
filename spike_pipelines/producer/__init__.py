"""Realistic events for the four example topics, or a user's own JSON lines, sent to Kafka at a rate.

Only what the broker acknowledged counts as sent.
"""
