"""The HTTP API that spikes POST to (design, section 6)."""
