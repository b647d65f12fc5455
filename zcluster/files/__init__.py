"""What touches the disks of synced trees: looking, reading, staging, applying, history, and the process that does it."""
