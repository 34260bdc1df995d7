"""The road: pure but for retries and time."""
