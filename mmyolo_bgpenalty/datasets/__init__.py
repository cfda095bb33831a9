"""Images and their batches."""
