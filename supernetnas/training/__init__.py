"""What all training shares: batches, devices, processes, checkpoints."""
