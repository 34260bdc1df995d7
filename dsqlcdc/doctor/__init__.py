"""The doctor: what a first run, or a later one, would trip over, each with its remedy. It reads and tries; it writes nothing."""
