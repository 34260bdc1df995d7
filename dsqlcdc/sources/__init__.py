"""Where pages come from: the Kinesis stream behind a CDC stream."""
